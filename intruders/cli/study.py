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
Published = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FOLDER",
        help="Take finished runs over from published tables, where every setting is the same. "
        "[default: nothing is taken over]",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs and the amount of work, and start nothing.")
]
Jobs = Annotated[int, typer.Option(metavar="N", help="Number of runs at a time, each in its own process.")]


@examples(
    (
        "Show the runs and the amount of work, and start nothing",
        "intruders study examples/quickstart.yaml --dry-run",
    ),
    (
        "Run or resume the study, two runs at a time",
        "intruders study examples/quickstart.yaml --out runs/quickstart --jobs 2",
    ),
)
def study(
    file: StudyFile,
    out: Out = None,
    resume: Resume = False,
    published: Published = None,
    dry_run: DryRun = False,
    jobs: Jobs = 1,
    ray: options.Ray = None,
) -> None:
    """Run or resume the study in a YAML file.

    Skips finished runs, then prints one verdict per claim.
    """
    from ..errors import SettingError
    from ..studies.describe.study import read_study
    from .study_progress import (
        print_beside_paper,
        print_findings,
        print_outcome,
        print_plan,
        print_take_over,
        study_progress,
    )

    described = read_study(file)
    if dry_run:
        print_plan(described, out, must_exist=resume)
        if published is not None:
            print_take_over(described, published)
        return
    if out is None:
        raise SettingError("--out is missing; expected the folder of the study; pass --out FOLDER")

    from ..studies.claims.every_claim import conclude
    from ..studies.run_study import run_study
    from ..studies.work.workplace import Workplace

    with resumable("finished runs are kept"), study_progress() as progress:
        outcome = run_study(
            described,
            out,
            resume=resume,
            jobs=jobs,
            ray=options.chosen_ray(ray),
            progress=progress,
            published=published,
        )
    print_outcome(outcome)
    print_findings(conclude(outcome.folder, described.analyses), outcome)
    Workplace.of(str(out)).put_findings()  # after they are printed: a store that fails loses nothing
    if described.compare_with is not None:
        print_beside_paper(outcome.folder)
    if outcome.failed:
        raise typer.Exit(ExitStatus.FAILED)
