"""A classification head trained again on a body that does not change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.task import Task
from ..errors import NonFiniteError
from ..models.encoding import PadRight, context_length, encode_classification, pad_token_id
from .arguments import steps_of_warmup, training_arguments
from .finetune_config import FinetuneConfig
from .trainer import TargetTrainer


def retrain_head(
    model: Any,
    head: Mapping[str, Tensor],
    tokenizer: Any,
    task: Task,
    config: FinetuneConfig,
    steps: int,
    scratch: Path,
) -> None:
    """Train the head of ``task`` in ``model``, in place; the body is frozen, and stays so.

    Training begins from ``head`` and takes the batches, the learning rate and the schedule of ``config``. Order of rows
    and dropout are drawn by its seed, so that a second call gives the same head.

    Args:
      model: a sequence classifier with the labels of ``task``.
      head: tensors of the head by their names in ``model``.
      tokenizer: the model's.
      task: rows and labels; every row of its train split is used.
      config: batch size, lr, schedule, precision, seed and max_length.
      steps: number of optimizer steps.
      scratch: an existing folder for what transformers writes while it trains.

    Raises:
      NonFiniteError: the head becomes NaN or infinite.
    """
    from transformers import PrinterCallback, set_seed

    set_seed(config.seed)
    model.load_state_dict(dict(head), strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    context = context_length(model.config, config.max_length)
    trainer = TargetTrainer(
        model=model,
        args=training_arguments(
            config,
            scratch,
            max_steps=steps,
            warmup_steps=steps_of_warmup(config, steps),
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=encode_classification(tokenizer, task.train, task.labels, context),
        data_collator=PadRight(pad_token_id(tokenizer)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if not all(
        bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad
    ):
        raise NonFiniteError(
            f"the head of task {task.name!r} became NaN or infinite when it was trained again; lower lr"
        )
