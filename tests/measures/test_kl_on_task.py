"""The KL to the base on a task, against torch's own divergence of the logits of two models, row by row."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.measures.kl_on_task import kl_on_task
from intruders.models.encoding import encode_parts
from tests.json_lines import write_rows
from tests.tiny import save_bert, save_llama, with_update


def test_it_is_that_of_torch_apart_for_prompts_and_answers(tmp_path: Path) -> None:
    """Of a task that needs no right answers."""
    base = save_llama(tmp_path / "base")
    name = "model.layers.0.self_attn.v_proj.weight"
    update = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    tuned = with_update(base, tmp_path / "tuned", name, update)
    rows = [{"prompt": f"{number} + 1 =", "completion": str(number + 1)} for number in range(60)]
    task = load_task(str(write_rows(tmp_path / "rows.jsonl", rows)), Columns(score="none"), 0)
    found = kl_on_task(str(base), str(tuned), task, max_examples=5)
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (base, tuned)]
    tokenizer = AutoTokenizer.from_pretrained(base)
    sums, tokens = [0.0, 0.0], [0, 0]
    for prompt, answer in encode_parts(tokenizer, task.validation[:5]):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in models)
        each = kl_div(q, p, reduction="none", log_target=True).sum(-1)  # (tokens,), KL(p || q)
        for part, place in ((0, slice(0, len(prompt) - 1)), (1, slice(len(prompt) - 1, -1))):
            sums[part] += float(each[place].sum())
            tokens[part] += len(each[place])
    assert found.examples == 5
    # Logits are in single precision.
    assert found.prompts.estimate == pytest.approx(sums[0] / tokens[0], rel=1e-4)
    assert found.answers.estimate == pytest.approx(sums[1] / tokens[1], rel=1e-4)
    assert found.prompts.low < found.prompts.estimate < found.prompts.high
    same = kl_on_task(str(base), str(base), task, max_examples=2)
    assert same.prompts.estimate == pytest.approx(0, abs=1e-9)


def test_a_classifier_has_none(tmp_path: Path) -> None:
    base = save_bert(tmp_path / "bert")
    task = load_task("pydoc-topics", Columns(), 0)
    with pytest.raises(SettingError, match="whose head starts at random"):
        kl_on_task(str(base), str(base), task)
