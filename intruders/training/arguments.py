"""The settings of a run as transformers' TrainingArguments, and the precision that it computes in."""

import math
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingError, first_line
from .finetune_config import FinetuneConfig


def training_arguments(config: FinetuneConfig, folder: Path, **over: Any) -> Any:
    """Return transformers' TrainingArguments of a run whose checkpoints go to ``folder``; ``over`` replaces some.

    The warm-up is not among them: see :func:`steps_of_warmup`, for which the number of steps must be known.
    SettingError if transformers refuses the settings.
    """
    from transformers import TrainingArguments, get_scheduler
    from transformers.integrations import get_reporting_integration_callbacks

    precision = resolved_precision(config)
    settings: dict[str, Any] = dict(
        output_dir=str(folder),
        learning_rate=config.lr,
        max_steps=config.steps if config.steps is not None else -1,
        num_train_epochs=config.epochs if config.epochs is not None else 1.0,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.lr_scheduler_type,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        **({"gradient_checkpointing": True} if config.gradient_checkpointing else {}),
        seed=config.seed,
        logging_steps=config.logging_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    try:
        get_reporting_integration_callbacks(settings["report_to"])
        arguments = TrainingArguments(**(settings | over))
    except (ValueError, ImportError) as error:
        raise SettingError(f"transformers refuses these settings: {first_line(error)}") from error
    # Trainer builds a schedule only as it begins to train.
    name = config.lr_scheduler_type
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    try:
        get_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=1)
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"lr_scheduler_type is {name!r}, which transformers cannot build ({first_line(error)}); expected a "
            "schedule that needs only lr, steps and warmup_steps; choose linear, cosine or constant"
        ) from error
    return arguments


def steps_of_warmup(config: FinetuneConfig, steps: int) -> int:
    """Return how many of ``steps`` warm up: a whole number, because transformers before 5.0 takes no fraction."""
    given = config.warmup_steps
    return int(given) if given >= 1 else math.ceil(given * steps)


def resolved_precision(config: FinetuneConfig) -> str:
    return precision_here() if config.precision == "auto" else config.precision


def precision_here() -> str:
    """Return what ``auto`` is on this machine: bf16 autocast if it has instructions for it, else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
