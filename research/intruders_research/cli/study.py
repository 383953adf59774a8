"""``intruders study``, with verdicts on claims, runs from published tables, and the time that a study takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from intruders.cli import options
from intruders.cli.from_verb import command, option
from intruders.cli.output import resumable, say
from intruders.cli.study import (
    DRY_RUN,
    FILE,
    JOBS,
    OUT,
    RESUME,
    print_outcome,
    print_plan,
    print_refused,
    study_progress,
)
from intruders.studies.run_study import StudyOutcome, run_study
from intruders.studies.runs import Run, expand
from intruders.studies.study import Study
from intruders.studies.study_folder import FINDINGS
from intruders.system.this_process import ExitStatus
from intruders.system.words import plural

from ..claims.shared.claim import Finding
from ..published.take_over import plan_take_over


@command(
    FILE,
    OUT,
    RESUME,
    option(
        "published",
        Path | None,
        "Take finished runs over from published tables, where every setting is the same. [default: nothing is taken "
        "over]",
        names=["--from"],
        metavar="FOLDER",
    ),
    DRY_RUN,
    JOBS,
    options.RAY,
)
def study(
    *,
    file: Path,
    out: str | None,
    resume: bool,
    published: Path | None,
    dry_run: bool,
    jobs: int,
    ray: str | bool,
) -> None:
    """Run or resume the study in a YAML file.

    Skips finished runs, then prints one verdict per claim.

    Examples:
      # Show the runs and the amount of work, and start nothing
      intruders study examples/quickstart.yaml --dry-run
      # Run or resume the study, two runs at a time
      intruders study examples/quickstart.yaml --out runs/quickstart --jobs 2
    """
    from intruders.errors import SettingError

    from ..read_study import read_study

    described = read_study(file)
    if dry_run:
        print_expected(described, out, resume)
        if published is not None:
            _print_take_over(described, published)
        return
    if out is None:
        raise SettingError("--out is missing; expected the folder of the study; pass --out FOLDER")

    from intruders.studies.work import Workplace

    from ..claims.every_claim import conclude

    taken = None if published is None else plan_take_over(published, expand(described), described.name)
    with resumable("finished runs are kept"), study_progress() as progress:
        into = None if taken is None else taken.into
        outcome = run_study(
            described, out, resume=resume, jobs=jobs, ray=ray, progress=progress, take_over=into
        )
        outcome = replace(outcome, refused={} if taken is None else taken.refused)
    print_outcome(outcome)
    _print_findings(conclude(outcome.folder, described.analyses), outcome)
    Workplace.of(str(out)).store.send(FINDINGS)  # after they are printed: a store that fails loses nothing
    if described.compare_with is not None:
        _print_beside_paper(outcome.folder)
    if outcome.failed:
        raise typer.Exit(ExitStatus.FAILED)


def print_expected(study: Study, out: str | None, must_exist: bool) -> None:
    """Print the runs, the work and its time, and what was written in advance of the claims."""
    from ..planning.costs import cost_lines
    from ..planning.earlier_times import time_lines

    def expected(runs: Sequence[Run]) -> list[str]:
        return [*cost_lines(runs), *time_lines(runs, study.times_from, out)]

    print_plan(study, out, must_exist, expected)
    if study.power or study.support:
        from ..planning.power import power_lines  # the statistics take a second to load

        say(power_lines(study))
    say(f"support: {claim}: {support}" for claim, support in study.support.items())
    say(f"primary: {claim}: {effect}" for claim, effect in study.primary.items())


def _print_take_over(study: Study, published: Path) -> None:
    """Print which published runs the study could take over, and why not the others."""
    matches = plan_take_over(published, expand(study), study.name)
    say([f"{plural(len(matches.runs), 'published run')} would be taken over from '{published}'"])
    print_refused(matches.refused)


def _print_beside_paper(folder: Path) -> None:
    """Print the paper's own figures beside those of the study, table by table."""
    from intruders.studies.results import load_results

    from ..published.beside_paper import beside_paper

    for table in beside_paper(load_results(folder)):
        say(["", *table.lines()], whole=True)


def _print_findings(findings: Sequence[Finding], outcome: StudyOutcome) -> None:
    """Print one verdict per line, and where the results are."""
    width = max((len(finding.name) for finding in findings), default=0)
    say(["", *(f"{finding.name:<{width}}  {finding.verdict}" for finding in findings), ""], whole=True)
    say([f"tables and findings.json: {outcome.folder}"], whole=True)
    say([f"the report:               intruders report {outcome.folder}"], whole=True)
