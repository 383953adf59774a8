"""A Trainer of a tiny model, as the tests of the callback need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from intruders.models.encoding import PadRight
from intruders.models.loading import load_model
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.methods import prepare


def tiny_trainer(model: Any, out: Path, *, kind: type[Trainer] = Trainer, **settings: Any) -> Trainer:
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
    )


def prepared(location: Path, method: str, **settings: Any) -> Any:
    """The model at ``location``, with what ``method`` trains."""
    config = FinetuneConfig(
        base=str(location), task="word-problems", out="out", method=method, rank=2, steps=1, **settings
    )
    return prepare(load_model(str(location), "causal"), config, "causal")
