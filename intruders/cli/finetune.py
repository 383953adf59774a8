"""``intruders finetune``."""

from __future__ import annotations

from typing import Annotated

from typer import Option, echo

from . import options
from .command import examples


@examples(
    (
        "Train a LoRA adapter of rank 1 for 100 steps",
        "intruders finetune --base smollm2-135m --task word-problems --rank 1 --lr 5e-3 --steps 100 --out runs/rank1",
    ),
    (
        "Train all linear weights, and stop at accuracy 0.90",
        (
            "intruders finetune --base smollm2-135m --task word-problems --method full --lr 5e-5 --steps 150 "
            "--match accuracy=0.90 --out runs/full"
        ),
    ),
)
def finetune(
    config: options.Config = None,
    base: options.RunBase = None,
    task: Annotated[
        str | None,
        Option(
            metavar="TASK",
            help="Task to train on: word-problems, pydoc-topics, a Hub task such as sst2, or a data file. "
            "[required, here or in --config]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    out: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            help="Folder of the run; run the same command again to resume. [required, here or in --config]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    method: options.Method = None,
    rank: options.Rank = None,
    alpha: options.Alpha = None,
    dropout: options.Dropout = None,
    target_modules: Annotated[
        str | None,
        Option(
            metavar="MODULES",
            help="Modules with an adapter: all-linear, or comma-separated names. [default: all-linear]",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    init_a: Annotated[
        str | None,
        Option(
            metavar="START",
            help="Frozen A of lora-fa and b-only: random or orthonormal. [default: random]",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    loraplus_lr_ratio: Annotated[
        float | None,
        Option(
            metavar="RATIO",
            help="lora+: learning rate of B divided by that of A, 1 or more. [default: 16.0]",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    train_all: Annotated[
        bool | None,
        Option(
            "--train-all",
            help="full: train embeddings, norms and biases too.",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    lr: options.LearningRate = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    gradient_accumulation_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number of batches per optimizer step. [default: 1]",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    weight_decay: options.WeightDecay = None,
    lr_scheduler_type: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Schedule of the learning rate, by the Trainer's name: linear, cosine, constant and others. "
            "[default: linear]",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    warmup_steps: options.WarmupSteps = None,
    max_grad_norm: Annotated[
        float | None,
        Option(
            metavar="NORM",
            help="Norm at which the gradient is clipped; 0 turns clipping off. [default: 1.0]",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    precision: options.Precision = None,
    gradient_checkpointing: Annotated[
        bool | None,
        Option(
            "--gradient-checkpointing",
            help="Recompute activations in the backward pass: slower, less memory.",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    seed: options.RunSeed = None,
    max_length: options.MaxLength = None,
    drop_too_long: Annotated[
        bool | None,
        Option(
            "--drop-too-long",
            help="Skip completions that are longer than --max-length, instead of stopping.",
            rich_help_panel=options.TRAINING,
        ),
    ] = None,
    max_train_samples: options.MaxTrainSamples = None,
    max_eval_samples: options.MaxEvalSamples = None,
    match: options.Match = None,
    eval_steps: options.EvalSteps = None,
    audit_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number of steps between two audits during training. [default: no audits]",
            rich_help_panel=options.STOPPING,
        ),
    ] = None,
    stop_above: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Stop when an audit counts more intruders than this number. [default: no limit]",
            rich_help_panel=options.STOPPING,
        ),
    ] = None,
    text: options.Text = None,
    label: options.Label = None,
    prompt: options.Prompt = None,
    completion: options.Completion = None,
    score: options.Score = None,
    validation_file: options.ValidationFile = None,
    test_file: options.TestFile = None,
    no_header: options.NoHeader = None,
    data_seed: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Seed of generated tasks and of held-out rows. [default: 0]",
            rich_help_panel=options.DATA_FILES,
        ),
    ] = None,
    save_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number of steps between two checkpoints. [default: 50]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    logging_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number of steps between two lines of the log. [default: 10]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    report_to: Annotated[
        str | None,
        Option(
            metavar="NAMES",
            help="Comma-separated trackers, by the Trainer's names: tensorboard, wandb and others. "
            "[default: none]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Fine-tune a model fully or with a LoRA method.

    --match stops every method at the same validation accuracy.
    """
    given = {name: value for name, value in locals().items() if name != "config" and value is not None}

    from ..training.finetune_config import config_from_mapping, read_config

    settings = read_config(config, **given) if config else config_from_mapping(given, where="options")

    from ..models.quiet import hush_imports

    hush_imports()

    from ..training.finetune import finetune as run
    from ..training.show_progress import ShowProgress

    folder = run(settings, callbacks=[ShowProgress()])
    echo(folder.summary())
