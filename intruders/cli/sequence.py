"""``intruders sequence``."""

from __future__ import annotations

from typing import Annotated

from typer import Option, echo

from . import options
from .command import examples


@examples(
    (
        "Train on three tasks, and merge every adapter",
        (
            "intruders sequence --base minilm-l6 --tasks pydoc-topics-1,pydoc-topics-2,pydoc-topics-3 "
            "--rank 1 --lr 3e-3 --steps 100 --out sequences/merge"
        ),
    ),
    (
        "Train one adapter on two tasks",
        (
            "intruders sequence --base minilm-l6 --tasks pydoc-topics-1,pydoc-topics-2 --adapters keep "
            "--rank 8 --lr 1e-3 --steps 100 --out sequences/keep"
        ),
    ),
)
def sequence(
    tasks: Annotated[
        str,
        Option(
            metavar="TASKS",
            help="Comma-separated tasks, in the order of training, each as --task of intruders finetune. A "
            "data file names its columns: rows.tsv?text=sentence&label=label.",
            rich_help_panel=options.RUN,
        ),
    ],
    config: options.Config = None,
    base: options.RunBase = None,
    out: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            help="Folder of the sequence, with one run per task; run the same command again to resume. "
            "[required, here or in --config]",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    adapters: Annotated[
        str,
        Option(
            metavar="NAME",
            help="merge each adapter into the weights before the next task, or keep training one adapter.",
            rich_help_panel=options.RUN,
        ),
    ] = "merge",
    method: options.Method = None,
    rank: options.Rank = None,
    alpha: options.Alpha = None,
    dropout: options.Dropout = None,
    lr: options.LearningRate = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    weight_decay: options.WeightDecay = None,
    warmup_steps: options.WarmupSteps = None,
    precision: options.Precision = None,
    seed: options.RunSeed = None,
    max_length: options.MaxLength = None,
    max_train_samples: options.MaxTrainSamples = None,
    max_eval_samples: options.MaxEvalSamples = None,
    match: options.Match = None,
    eval_steps: options.EvalSteps = None,
) -> None:
    """Train on tasks in sequence and measure forgetting.

    After each task, scores all tasks so far and audits against the original base.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for own in ("config", "tasks", "adapters"):
        given.pop(own, None)

    from ..training.finetune_config import config_from_mapping, read_config

    given["task"] = tasks  # each stage replaces it with its own
    settings = read_config(config, **given) if config else config_from_mapping(given, where="options")

    from ..models.quiet import hush_imports

    hush_imports()

    from ..evaluation.train_in_sequence import train_in_sequence
    from ..training.show_progress import ShowProgress

    result = train_in_sequence(
        settings, tasks.split(","), adapters=adapters, callbacks=lambda: [ShowProgress()]
    )
    for line in result.lines():
        echo(line)
    echo(f"runs, models and sequence.json written to {settings.out}")
