"""The output of ``intruders study``: the plan, a bar or one line per run, and the outcome."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..charts.text import duration, plural
from .output import say

if TYPE_CHECKING:
    from ..studies.claims.shared.claim import Finding
    from ..studies.describe.runs import Run
    from ..studies.describe.study import Study
    from ..studies.run_study import StudyOutcome, StudyProgress


def print_plan(study: Study, out: str | None, must_exist: bool = False) -> None:
    """Print the runs as a table, the amount of work and time, and what was written in advance of its claims.

    Raises SettingError where the study could not run in ``out``, or could not resume there if it ``must_exist``.
    """
    from ..studies.describe.inputs import require_contents, require_inputs, taken_from_the_hub
    from ..studies.describe.plan import plan
    from ..studies.describe.runs import expand
    from ..studies.planning.costs import cost_lines
    from ..studies.planning.earlier_times import time_lines
    from ..studies.work.study_folder import StudyFolder
    from ..system.files import user_path
    from ..system.remote_folder import is_url

    runs = expand(study)
    require_inputs(runs)
    require_contents(runs)
    if out is not None and not is_url(out):
        StudyFolder(user_path(out)).require_is_for(study, must_exist=must_exist)
    work = plan(runs)
    widths = [max(map(len, column)) for column in zip(work.columns, *work.rows, strict=True)]
    table = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (work.columns, *work.rows))
    say(table, whole=True)
    say(["", *work.amounts, *cost_lines(runs), *time_lines(runs, study.times_from, out)])
    say(
        f"base: {base!r} names no local folder and is taken from the Hub" for base in taken_from_the_hub(runs)
    )
    if study.power or study.support:
        from ..studies.planning.power import power_lines  # the statistics take a second to load

        say(power_lines(study))
    say(f"support: {claim}: {support}" for claim, support in study.support.items())
    say(f"primary: {claim}: {effect}" for claim, effect in study.primary.items())


@contextmanager
def study_progress() -> Iterator[StudyProgress]:
    """Show a bar over the runs on a terminal, elsewhere one line per completed run, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from ..studies.run_study import StudyProgress

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("")
    began = time.monotonic()

    def on_start(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done:
            console.print(f"{done} of {total} runs are finished already", highlight=False)

    def on_precision(precision: str) -> None:
        console.print(
            f"runs whose precision is auto are trained in {precision}, as the finished ones", highlight=False
        )

    at_work = ""

    def on_stage(run: Run, stage: str) -> None:
        nonlocal at_work
        at_work = f"{run.id}: {stage}"
        bar.update(task, description=at_work)

    def on_step(step: int, steps: int) -> None:
        bar.update(task, description=f"{at_work}, step {step} of {steps}")

    def on_run(run: Run, status: str, done: int, total: int) -> None:
        bar.update(task, completed=done)
        passed = duration(time.monotonic() - began)
        console.print(
            f"{done}/{total} {run.id} {status}, {passed} since the start", highlight=False, soft_wrap=True
        )

    with bar:
        steps = on_step if console.is_terminal else None
        yield StudyProgress(on_start, on_stage, on_run, steps, on_precision)


def print_outcome(outcome: StudyOutcome) -> None:
    """Print how many runs are finished, what failed and why."""
    say([f"{outcome.finished} of {outcome.runs} runs finished, {len(outcome.failed)} failed"])
    if outcome.taken_over:
        say([f"  {len(outcome.taken_over)} of them taken over from published tables"])
    _print_refused(outcome.refused)
    say(f"  {run_id}: {error}" for run_id, error in outcome.failed.items())
    if outcome.others:
        others = plural(len(outcome.others), "run")
        say([f"  {others} of an earlier version of the file kept, not in the tables"])


def print_take_over(study: Study, published: Path) -> None:
    """Print which published runs the study could take over, and why not the others."""
    from ..studies.describe.runs import expand
    from ..studies.published.take_over import plan_take_over

    matches = plan_take_over(published, expand(study), study.name)
    say([f"{plural(len(matches.runs), 'published run')} would be taken over from '{published}'"])
    _print_refused(matches.refused)


def _print_refused(refused: dict[str, str]) -> None:
    say(f"  not taken over: {run_id}: {reason}" for run_id, reason in refused.items())


def print_beside_paper(folder: Path) -> None:
    """Print the paper's own figures beside those of the study, table by table."""
    from ..reports.study.beside_paper_text import beside_paper_lines
    from ..studies.published.beside_paper import beside_paper
    from ..studies.tables.results import load_results

    for table in beside_paper(load_results(folder)):
        say(["", *beside_paper_lines(table)], whole=True)


def print_findings(findings: Sequence[Finding], outcome: StudyOutcome) -> None:
    """Print one verdict per line, and where the results are."""
    width = max((len(finding.name) for finding in findings), default=0)
    say(["", *(f"{finding.name:<{width}}  {finding.verdict}" for finding in findings), ""], whole=True)
    say([f"tables and findings.json: {outcome.folder}"], whole=True)
    say([f"the report:               intruders report {outcome.folder}"], whole=True)
