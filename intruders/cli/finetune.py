"""``intruders finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..system.this_process import ExitStatus
from ..training.finetune_config import FinetuneConfig
from . import options, setting_options
from .command import examples
from .output import note, say


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
@setting_options.of(FinetuneConfig, "given", without=["start_from"], over_a_file=True)
def finetune(
    config: options.Config = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Train nothing: check the settings, and predict how large an update may be before it has intruders.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Fine-tune a model fully or with a LoRA method.

    --match stops every method at the same validation accuracy.
    """
    settings = FinetuneConfig.from_file(config, **given) if config else FinetuneConfig.from_mapping(given)

    if dry_run:
        _print_room(settings)
        return

    from ..training.finetune import finetune as run
    from ..training.run_folder import RunFolder
    from ..training.show_progress import ShowProgress

    folder = RunFolder(Path(settings.out))
    was_finished = folder.is_finished
    try:
        run(settings, callbacks=[ShowProgress()])
    except KeyboardInterrupt:
        note(f"interrupted; {folder.how_to_resume()}")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    if was_finished:
        say(["already finished; nothing was trained"])
    say(folder.summary().splitlines(), whole=True)


def _print_room(settings: FinetuneConfig) -> None:
    """Print how large an update of the base may be, after the checks of a training that need no model."""
    from ..audits.audit_settings import AS_USUAL
    from ..checkpoints.opening.open import open_checkpoint
    from ..data.load_task import load_task
    from ..models.base_model import base_model_location
    from ..reports.room_for_update import room_lines
    from ..training.finetune import check_task
    from .progress import progress_bar

    check_task(settings, load_task(settings.task, settings, settings.data_seed))
    with progress_bar() as progress:
        base = open_checkpoint(base_model_location(settings.base))
        lines = room_lines(base, AS_USUAL.k, AS_USUAL.epsilon, progress)
    say(lines)
