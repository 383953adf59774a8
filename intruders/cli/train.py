"""``intruders finetune`` and ``intruders sequence``."""

from pathlib import Path
from typing import Any

import typer

from ..errors import SettingError
from ..system.this_process import ExitStatus
from ..training.finetune_config import FinetuneConfig
from . import options
from .from_verb import REQUIRED, command, flag, of_settings, option
from .output import note, progress_bar, resumable, say


@command(
    options.CONFIG,
    flag(
        "dry_run",
        "Train nothing: check the settings, and predict how large an update may be before it has intruders.",
        panel=options.RUN,
    ),
    of_settings("given", FinetuneConfig, without=["start_from"], over_a_file=True),
)
def finetune(*, config: Path | None, dry_run: bool, given: dict[str, Any]) -> None:
    """Fine-tune a model fully or with a LoRA method.

    --match stops every method at the same validation accuracy.

    Examples:
      # Train a LoRA adapter of rank 1 for 100 steps
      intruders finetune --base smollm2-135m --task word-problems --rank 1 --lr 5e-3 --steps 100 --out runs/rank1
      # Train all linear weights, and stop at accuracy 0.90
      intruders finetune --base smollm2-135m --task word-problems --method full --lr 5e-5 --steps 150 \\
        --match accuracy=0.90 --out runs/full
    """
    settings = _settings(config, given)
    if dry_run:  # the checks of a training that need no model, and how large an update of the base may be
        from ..audits.audit_settings import AS_USUAL
        from ..data.load_task import load_task
        from ..models.base_model import base_model_location
        from ..reports.room_for_update import room_lines
        from ..training.finetune import check_task

        check_task(settings, load_task(settings.task, settings, settings.data_seed))
        with progress_bar() as progress:
            base = base_model_location(settings.base)
            lines = room_lines(base, AS_USUAL.k, AS_USUAL.epsilon, progress)
        say(lines)
        return

    from ..training.finetune import finetune as run
    from ..training.run_folder import RunFolder
    from ..training.trainer import ShowProgress

    folder = RunFolder(Path(settings.out))
    was_finished = folder.is_finished
    try:
        with progress_bar() as bar:
            run(settings, callbacks=[ShowProgress(bar)])
    except KeyboardInterrupt:
        note(f"interrupted; {folder.how_to_resume()}")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    if was_finished:
        say(["already finished; nothing was trained"])
    say(folder.summary().splitlines(), whole=True)


def _settings(config: Path | None, given: dict[str, Any]) -> FinetuneConfig:
    return FinetuneConfig.from_file(config, **given) if config else FinetuneConfig.from_mapping(given)


@command(
    option(
        "tasks",
        str,
        "Comma-separated tasks, in the order of training, each as --task of intruders finetune. A data file names its "
        "columns: rows.tsv?text=sentence&label=label.",
        REQUIRED,
        metavar="TASKS",
        panel=options.RUN,
    ),
    option(
        "adapters",
        str,
        "merge each adapter into the weights before the next task, or keep training one adapter.",
        "merge",
        metavar="NAME",
        panel=options.RUN,
    ),
    flag(
        "retrain_heads",
        "Train the head of an earlier task again on the frozen body before it is tested, as the paper does. [default: "
        "keep the head of the task's own stage]",
        panel=options.RUN,
        advanced=True,
    ),
    options.CONFIG,
    of_settings(
        "given",
        FinetuneConfig,
        without=["task", "start_from"],
        over_a_file=True,
        reworded={
            "out": "Folder of the sequence, with one run per task; run the same command again to resume."
        },
    ),
)
def sequence(
    *, tasks: str, adapters: str, retrain_heads: bool, config: Path | None, given: dict[str, Any]
) -> None:
    """Train on tasks in sequence and measure forgetting.

    After each task, scores all tasks so far and audits against the original base.

    Examples:
      # Train on three tasks, and merge every adapter
      intruders sequence --base minilm-l6 --tasks pydoc-topics-1,pydoc-topics-2,pydoc-topics-3 --rank 1 \\
        --lr 3e-3 --steps 100 --out sequences/merge
      # Train one adapter on two tasks
      intruders sequence --base minilm-l6 --tasks pydoc-topics-1,pydoc-topics-2 --adapters keep --rank 8 \\
        --lr 1e-3 --steps 100 --out sequences/keep
    """
    named = [task.strip() for task in tasks.split(",")]
    if not all(named):
        raise SettingError(
            f"--tasks {tasks!r} has an empty name between or beside its commas; expected names of tasks or data files, "
            "with a comma between two; remove the comma that is too many"
        )
    settings = _settings(config, given | {"task": tasks})  # each stage replaces it with its own

    from ..reports.sequence import sequence_lines
    from ..training.train_in_sequence import has_finished, train_in_sequence
    from ..training.trainer import ShowProgress

    was_finished = has_finished(settings, named, retrain_heads)
    with resumable("finished stages are kept"), progress_bar() as bar:
        how: dict[str, Any] = {"adapters": adapters, "retrain_heads": retrain_heads}
        result = train_in_sequence(settings, named, callbacks=lambda: [ShowProgress(bar)], **how)
    if was_finished:
        say(["already finished; nothing was trained"])
    say(sequence_lines(result))
    say([f"runs, models and sequence.json written to {settings.out}"], whole=True)
