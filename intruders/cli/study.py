"""``intruders study``."""

from __future__ import annotations

from pathlib import Path

import typer

from ..system.this_process import ExitStatus
from . import options
from .from_verb import argument, command, option
from .output import resumable

FILE = argument("file", Path, "FILE", "YAML file of the study; docs/reference/study.md lists its keys.")
OUT = option(
    "out",
    str | None,
    "Folder or URL of the study; its finished runs are skipped. [required without --dry-run]",
    metavar="FOLDER",
)
RESUME = option("resume", bool, "Stop with an error if --out does not contain this study yet.", False)
DRY_RUN = option("dry_run", bool, "Show the runs and the amount of work, and start nothing.", False)
JOBS = option("jobs", int, "Number of runs at a time, each in its own process.", 1, metavar="N")


@command(FILE, OUT, RESUME, DRY_RUN, JOBS, options.RAY)
def study(*, file: Path, out: str | None, resume: bool, dry_run: bool, jobs: int, ray: str | None) -> None:
    """Run or resume the study in a YAML file.

    Skips finished runs, then prints the settings side by side.

    Examples:
      # Show the runs and the amount of work, and start nothing
      intruders study examples/quickstart.yaml --dry-run
      # Run or resume the study, two runs at a time
      intruders study examples/quickstart.yaml --out runs/quickstart --jobs 2
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
