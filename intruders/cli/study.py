"""``intruders study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..system.this_process import ExitStatus
from . import options
from .command import examples
from .output import resumable

StudyFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="YAML file of the study; docs/reference/study.md lists its keys."),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder or URL of the study; its finished runs are skipped. [required without --dry-run]",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Stop with an error if --out does not contain this study yet."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs and the amount of work, and start nothing.")
]
Jobs = Annotated[int, typer.Option(metavar="N", help="Number of runs at a time, each in its own process.")]


EXAMPLES = (
    (
        "Show the runs and the amount of work, and start nothing",
        "intruders study examples/quickstart.yaml --dry-run",
    ),
    (
        "Run or resume the study, two runs at a time",
        "intruders study examples/quickstart.yaml --out runs/quickstart --jobs 2",
    ),
)


@examples(*EXAMPLES)
def study(
    file: StudyFile,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    jobs: Jobs = 1,
    ray: options.Ray = None,
) -> None:
    """Run or resume the study in a YAML file.

    Skips finished runs, then prints the settings side by side.
    """
    from ..errors import SettingError
    from ..studies.study import read_study
    from .study_progress import print_outcome, print_plan, print_settings, study_progress

    described = read_study(file)
    if dry_run:
        print_plan(described, out, must_exist=resume)
        return
    if out is None:
        raise SettingError("--out is missing; expected the folder of the study; pass --out FOLDER")

    from ..studies.run_study import run_study

    with resumable("finished runs are kept"), study_progress() as progress:
        outcome = run_study(
            described,
            out,
            resume=resume,
            jobs=jobs,
            ray=options.chosen_ray(ray),
            progress=progress,
        )
    print_outcome(outcome)
    print_settings(outcome)
    if outcome.failed:
        raise typer.Exit(ExitStatus.FAILED)
