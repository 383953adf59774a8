"""A Trainer of a tiny model, as the tests of the callback need it, and the definition of what an audit counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Trainer, TrainingArguments

from intruders.audits.result.audit_result import Audit
from intruders.models.encoding import PadRight
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.methods import prepare
from tests.tiny import mean_loss_by_hand


def tiny_trainer(
    model: Any, out: Path, *, callbacks: Sequence[Any] = (), kind: Any = Trainer, **settings: Any
) -> Trainer:
    """Four steps on random tokens on the CPU; ``settings`` are TrainingArguments."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(5, 60, (16, 12), generator=generator).tolist()
    arguments: dict[str, Any] = {
        "output_dir": str(out), "max_steps": 4, "learning_rate": 0.05, "per_device_train_batch_size": 4,
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 100,
        "seed": 0,
    }  # fmt: skip
    return kind(
        model=model,
        args=TrainingArguments(**arguments | settings),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        data_collator=PadRight(0),
        callbacks=list(callbacks),
    )


def prepared(location: Path, method: str, **settings: Any) -> Any:
    """The model at ``location``, with what ``method`` trains."""
    config = FinetuneConfig(
        base=str(location), task="word-problems", out="out", method=method, rank=2, steps=1, **settings
    )
    return prepare(load_model(str(location), "causal"), config, "causal")


def audited(trainer: Trainer, **given: Any) -> Audit:
    """Train with a callback that knows its Trainer, and return the last audit."""
    callback = IntruderCallback(trainer, **given)
    trainer.add_callback(callback)
    trainer.train()
    return callback.last


def all_weights(model: Any) -> dict[str, Tensor]:
    """Copies of the weights, with the adapters merged."""
    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}


def intruders_of(base: Tensor, tuned: Tensor, k: int = 10, epsilon: float = 0.5) -> int:
    """The definition, by two full decompositions in double precision."""
    x = torch.linalg.svd(base.double(), full_matrices=False)[0]
    y = torch.linalg.svd(tuned.double(), full_matrices=False)[0][:, :k]
    return int(((x.T @ y).abs().amax(dim=0) < epsilon).sum())


def logged(trainer: Any, key: str = "intruders/total") -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if key in entry]


def counts_of(base: Path, trained: Any) -> dict[str, int]:
    """The intruders of every projection of a Llama that was trained from the one at ``base``."""
    return by_definition(all_weights(load_model(str(base), "causal")), all_weights(trained))


def by_definition(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, int]:
    """The intruders of every projection of a Llama."""
    return {name: intruders_of(before[name], after[name]) for name in before if "_proj" in name}


TOKENS = 40  # of each document, whose loss is measured


def loss_by_hand(model: Any, location: Path, texts: Path) -> float:
    """Nats per token of each document's first 40."""
    tokenizer = AutoTokenizer.from_pretrained(location)
    documents = [tokenizer(file.read_text())["input_ids"][:TOKENS] for file in sorted(texts.iterdir())]
    return mean_loss_by_hand(model.eval(), documents)
