"""``intruders finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
def finetune(config: options.Config = None, *, given: dict[str, Any]) -> None:
    """Fine-tune a model fully or with a LoRA method.

    --match stops every method at the same validation accuracy.
    """
    settings = FinetuneConfig.from_file(config, **given) if config else FinetuneConfig.from_mapping(given)

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
