"""``intruders study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class StudyCommand(TyperCommand):
    """``--ray`` may stand alone; typer has no options with a value that can be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        if "--ray" in given:
            after = given.index("--ray") + 1
            if after == len(given) or given[after].startswith("-"):
                given.insert(after, "")
        return super().parse_args(ctx, given)


def study(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file (docs/study.md).")],
    out: Annotated[
        str | None, typer.Option(help="Folder of the study; what is finished there is kept.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in that folder, or say that there is none.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and how much work they are; start nothing.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Runs at once, in processes of their own.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Give the runs to Ray: the cluster at that address, or without one a Ray of this machine.",
            metavar="[ADDRESS]",
        ),
    ] = None,
) -> None:
    """Run a study: everything that its file describes and that is not done yet."""
    from ..training.quiet import hush_imports

    hush_imports()

    from ..errors import SettingError
    from ..studies.config import read_study
    from ..studies.expand import expand
    from .study_progress import print_findings, print_outcome, print_plan, study_progress

    described = read_study(file)
    if dry_run:
        print_plan(expand(described))
        return
    if out is None:
        raise SettingError("no folder is given; expected --out FOLDER, where the study is kept")

    from ..studies.conclude import conclude
    from ..studies.runner import run_study

    try:
        with study_progress() as progress:
            outcome = run_study(
                described,
                out,
                resume=resume,
                jobs=jobs,
                ray=False if ray is None else (ray or True),
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    print_outcome(outcome)
    print_findings(conclude(outcome.folder, described.analyses), outcome)
    if outcome.failed:
        raise typer.Exit(1)
