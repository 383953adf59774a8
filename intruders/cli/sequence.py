"""``intruders sequence``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..training.finetune_config import FinetuneConfig
from . import options, setting_options
from .command import examples
from .output import resumable, say


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
@setting_options.of(
    FinetuneConfig,
    "given",
    without=["task", "start_from"],
    over_a_file=True,
    reworded={
        "out": "Folder of the sequence, with one run per task; run the same command again to resume.",
    },
)
def sequence(
    tasks: Annotated[
        str,
        typer.Option(
            metavar="TASKS",
            help="Comma-separated tasks, in the order of training, each as --task of intruders finetune. A "
            "data file names its columns: rows.tsv?text=sentence&label=label.",
            rich_help_panel=options.RUN,
        ),
    ],
    adapters: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="merge each adapter into the weights before the next task, or keep training one adapter.",
            rich_help_panel=options.RUN,
        ),
    ] = "merge",
    retrain_heads: Annotated[
        bool,
        typer.Option(
            "--retrain-heads",
            help="Train the head of an earlier task again on the frozen body before it is tested, as the paper does. "
            "[default: keep the head of the task's own stage]",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    config: options.Config = None,
    *,
    given: dict[str, Any],
) -> None:
    """Train on tasks in sequence and measure forgetting.

    After each task, scores all tasks so far and audits against the original base.
    """
    from ..errors import SettingError

    named = [task.strip() for task in tasks.split(",")]
    if not all(named):
        raise SettingError(
            f"--tasks {tasks!r} has an empty name between or beside its commas; expected names of tasks or data files, "
            "with a comma between two; remove the comma that is too many"
        )
    given["task"] = tasks  # each stage replaces it with its own
    settings = FinetuneConfig.from_file(config, **given) if config else FinetuneConfig.from_mapping(given)

    from ..reports.sequence import sequence_lines
    from ..training.show_progress import ShowProgress
    from ..training.train_in_sequence import has_finished, train_in_sequence

    was_finished = has_finished(settings, named, retrain_heads)
    with resumable("finished stages are kept"):
        result = train_in_sequence(
            settings,
            named,
            adapters=adapters,
            retrain_heads=retrain_heads,
            callbacks=lambda: [ShowProgress()],
        )
    if was_finished:
        say(["already finished; nothing was trained"])
    say(sequence_lines(result))
    say([f"runs, models and sequence.json written to {settings.out}"], whole=True)
