"""intruders finetune: train a model in full or by one of the LoRA family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, echo


def finetune(
    config: Annotated[
        Path | None, Option(help="YAML file of settings; options given here go over it.")
    ] = None,
    base: Annotated[str | None, Option(help="Model folder, hub id, smollm2-135m or minilm-l6.")] = None,
    task: Annotated[
        str | None, Option(help="word-problems, pydoc-topics, a task of the hub, or a data file.")
    ] = None,
    out: Annotated[str | None, Option(help="Folder of the run; a killed run there goes on.")] = None,
    method: Annotated[
        str | None, Option(help="full, lora, rslora, dora, pissa, olora, lora-fa, b-only or lora+.")
    ] = None,
    rank: Annotated[int | None, Option("--rank", "--r", help="Rank of the adapter.")] = None,
    alpha: Annotated[
        str | None, Option("--alpha", "--lora-alpha", help="A number, or a multiple such as 2r.")
    ] = None,
    dropout: Annotated[float | None, Option("--dropout", "--lora-dropout")] = None,
    target_modules: Annotated[str | None, Option(help="all-linear, or names with commas between.")] = None,
    init_a: Annotated[
        str | None, Option(help="Frozen A of lora-fa and b-only: random or orthonormal.")
    ] = None,
    loraplus_lr_ratio: Annotated[float | None, Option(help="Rate of B over that of A (lora+).")] = None,
    train_all: Annotated[
        bool | None, Option("--train-all", help="full: embeddings, norms and biases too.")
    ] = None,
    lr: Annotated[float | None, Option("--lr", "--learning-rate")] = None,
    steps: Annotated[int | None, Option("--steps", "--max-steps")] = None,
    epochs: Annotated[float | None, Option("--epochs", "--num-train-epochs")] = None,
    batch_size: Annotated[int | None, Option("--batch-size", "--per-device-train-batch-size")] = None,
    gradient_accumulation_steps: Annotated[int | None, Option()] = None,
    weight_decay: Annotated[float | None, Option()] = None,
    lr_scheduler_type: Annotated[
        str | None, Option(help="linear, cosine, constant, ...: Trainer's names.")
    ] = None,
    warmup_steps: Annotated[float | None, Option(help="Steps; below 1 a share of all steps.")] = None,
    max_grad_norm: Annotated[float | None, Option()] = None,
    precision: Annotated[str | None, Option(help="auto, fp32, bf16 or fp16 (autocast).")] = None,
    gradient_checkpointing: Annotated[bool | None, Option("--gradient-checkpointing")] = None,
    seed: Annotated[int | None, Option()] = None,
    max_length: Annotated[
        int | None, Option(help="Tokens of a row; the model's context if not given.")
    ] = None,
    drop_too_long: Annotated[
        bool | None, Option("--drop-too-long", help="Leave out rows that do not fit.")
    ] = None,
    max_train_samples: Annotated[int | None, Option()] = None,
    max_eval_samples: Annotated[int | None, Option()] = None,
    text: Annotated[str | None, Option(help="Column of the text, or two with a comma between.")] = None,
    label: Annotated[str | None, Option(help="Column of the label.")] = None,
    prompt: Annotated[str | None, Option(help="Column of the prompt.")] = None,
    completion: Annotated[str | None, Option(help="Column of the completion.")] = None,
    score: Annotated[str | None, Option(help="Completions: exact, final-number or none.")] = None,
    validation_file: Annotated[
        str | None, Option(help="A tenth of the data is held out if not given.")
    ] = None,
    test_file: Annotated[str | None, Option()] = None,
    no_header: Annotated[bool | None, Option("--no-header", help="Columns are called 0, 1, ...")] = None,
    data_seed: Annotated[int | None, Option(help="Of generated tasks and of rows held out.")] = None,
    match: Annotated[str | None, Option(help="accuracy=0.90: stop when validation reaches it.")] = None,
    eval_steps: Annotated[int | None, Option(help="How often --match looks.")] = None,
    save_steps: Annotated[int | None, Option(help="How often a checkpoint is kept.")] = None,
    logging_steps: Annotated[int | None, Option()] = None,
    audit_steps: Annotated[int | None, Option(help="Audit every so many steps while training.")] = None,
    stop_above: Annotated[int | None, Option(help="End training at more intruders than this.")] = None,
    report_to: Annotated[str | None, Option(help="tensorboard, wandb, ...: Trainer's names.")] = None,
) -> None:
    """Fine-tune a model in full or by one of the LoRA family, on equal terms."""
    given = {name: value for name, value in locals().items() if name != "config" and value is not None}

    from ..training.config import config_from_mapping, read_config

    settings = read_config(config, **given) if config else config_from_mapping(given, where="options")

    from ..training.quiet import hush_imports

    hush_imports()

    from ..training.progress import ShowProgress
    from ..training.train import finetune as run

    folder = run(settings, callbacks=[ShowProgress()])
    echo(folder.summary())
