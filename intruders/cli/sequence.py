"""intruders sequence: several tasks in turn, what is forgotten, how intruders add up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, echo


def sequence(
    tasks: Annotated[str, Option(help="Tasks with commas between; a data file carries ?text=...&label=....")],
    config: Annotated[
        Path | None, Option(help="YAML file of settings as for finetune; options go over it.")
    ] = None,
    base: Annotated[str | None, Option(help="Model folder, hub id, smollm2-135m or minilm-l6.")] = None,
    out: Annotated[str | None, Option(help="Folder with a run per stage; a killed sequence goes on.")] = None,
    adapters: Annotated[str, Option(help="merge each stage's adapter, or keep training the one.")] = "merge",
    method: Annotated[
        str | None, Option(help="full, lora, rslora, dora, pissa, olora, lora-fa, b-only or lora+.")
    ] = None,
    rank: Annotated[int | None, Option("--rank", "--r")] = None,
    alpha: Annotated[str | None, Option("--alpha", "--lora-alpha")] = None,
    dropout: Annotated[float | None, Option("--dropout", "--lora-dropout")] = None,
    lr: Annotated[float | None, Option("--lr", "--learning-rate")] = None,
    steps: Annotated[int | None, Option("--steps", "--max-steps")] = None,
    epochs: Annotated[float | None, Option("--epochs", "--num-train-epochs")] = None,
    batch_size: Annotated[int | None, Option("--batch-size", "--per-device-train-batch-size")] = None,
    weight_decay: Annotated[float | None, Option()] = None,
    warmup_steps: Annotated[float | None, Option()] = None,
    precision: Annotated[str | None, Option(help="auto, fp32, bf16 or fp16 (autocast).")] = None,
    max_length: Annotated[int | None, Option()] = None,
    max_train_samples: Annotated[int | None, Option()] = None,
    max_eval_samples: Annotated[int | None, Option()] = None,
    match: Annotated[
        str | None, Option(help="accuracy=0.90: end each stage when validation reaches it.")
    ] = None,
    eval_steps: Annotated[int | None, Option()] = None,
    seed: Annotated[int | None, Option()] = None,
) -> None:
    """Train on several tasks in turn; score all tasks seen and audit against the first base after each."""
    given = {name: value for name, value in locals().items() if value is not None}
    for own in ("config", "tasks", "adapters"):
        given.pop(own, None)

    from ..training.config import config_from_mapping, read_config

    given["task"] = tasks  # every stage puts its own in this place
    settings = read_config(config, **given) if config else config_from_mapping(given, where="options")

    from ..training.quiet import hush_imports

    hush_imports()

    from ..evaluation.sequence import train_in_sequence
    from ..training.progress import ShowProgress

    result = train_in_sequence(
        settings, tasks.split(","), adapters=adapters, callbacks=lambda: [ShowProgress()]
    )
    for line in result.lines():
        echo(line)
    echo(f"runs, models and sequence.json in {settings.out}")
