"""A head that is trained again: its step is that of all its batches together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from intruders.data.load_task import load_task
from intruders.models.loading import heads, load_model, load_tokenizer
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.stage_models import retrain_head
from intruders.training.trainer import TargetTrainer
from tests.json_lines import write_rows
from tests.tiny import save_bert


def test_a_step_is_the_same_however_many_batches_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: the gradient of the mean over all 14 rows, of which the last batch of four has two."""
    base = save_bert(tmp_path / "bert")
    settings = json.loads((base / "config.json").read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps(settings | off))
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"t": "ab"[i % 2] * (i % 7 + 1), "l": "ab"[i % 2]} for i in range(60)])
    task = load_task(f"{file}?text=t&label=l").limited(14, 2)
    model, tokenizer = load_model(str(base), "classification", task.labels), load_tokenizer(str(base))
    head = {
        f"{name}.{key}": value.clone()
        for name, module in heads(model).items()
        for key, value in module.state_dict().items()
    }
    texts = tokenizer([row.text for row in task.train], return_tensors="pt", padding=True)
    targets = torch.tensor([task.labels.index(row.target) for row in task.train])
    wanted = torch.nn.functional.cross_entropy(model(**texts).logits, targets)
    gradients = torch.autograd.grad(wanted, [model.get_parameter(name) for name in head])
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()

    logged: list[dict[str, float]] = []
    monkeypatch.setattr(TargetTrainer, "log", lambda self, logs, *args: logged.append(logs))
    for rows, batches in ((14, 1), (4, 4), (2, 8)):
        config = FinetuneConfig(
            base=str(base), task="t", out="o", steps=1, batch_size=rows, gradient_accumulation_steps=batches,
            logging_steps=1, precision="fp32",
        )  # fmt: skip
        logged.clear()
        retrain_head(model, head, tokenizer, task, config, 1, tmp_path)
        assert logged[0]["loss"] == pytest.approx(wanted.item(), abs=5e-5)  # until 5.0, Trainer rounds it
        assert logged[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
