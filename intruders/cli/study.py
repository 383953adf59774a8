"""``intruders study``: its plan, a bar or one line per run, and the outcome."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import SettingError
from ..system.this_process import ExitStatus
from ..system.words import duration, plural
from . import options
from .from_verb import argument, command, flag, option
from .output import resumable, say

if TYPE_CHECKING:
    from ..studies.run_study import StudyOutcome, StudyProgress
    from ..studies.runs import Run
    from ..studies.study import Study

FILE = argument("file", Path, "YAML file of the study.")
OUT = option(
    "out",
    str | None,
    "Folder or URL of the study; its finished runs are skipped. [required without --dry-run]",
    metavar="FOLDER",
)
RESUME = flag("resume", "Stop with an error if --out does not contain this study yet.")
DRY_RUN = flag("dry_run", "Show the runs and the amount of work, and start nothing.")
JOBS = option("jobs", int, "Number of runs at a time, each in its own process.", 1, metavar="N")


@command(FILE, OUT, RESUME, DRY_RUN, JOBS, options.RAY)
def study(*, file: Path, out: str | None, resume: bool, dry_run: bool, jobs: int, ray: str | bool) -> None:
    """Run or resume the study in a YAML file.

    Skips finished runs, then prints the settings side by side.

    Examples:
      # Show the runs and the amount of work, and start nothing
      intruders study examples/quickstart.yaml --dry-run
      # Run or resume the study, two runs at a time
      intruders study examples/quickstart.yaml --out runs/quickstart --jobs 2
    """
    from ..studies.study import read_study

    described = read_study(file)
    if dry_run:
        print_plan(described, out, must_exist=resume)
        return
    if out is None:
        raise SettingError("--out is missing; expected the folder of the study; pass --out FOLDER")

    from ..reports.study import WITHOUT_VERDICTS
    from ..reports.terminal import in_columns
    from ..studies.compare_settings import compare_settings
    from ..studies.results import load_results
    from ..studies.run_study import run_study

    with resumable("finished runs are kept"), study_progress() as progress:
        outcome = run_study(described, out, resume=resume, jobs=jobs, ray=ray, progress=progress)
    print_outcome(outcome)
    frame = compare_settings(load_results(outcome.folder))
    if len(frame):
        rows = [list(map(str, frame)), *frame.astype(str).values.tolist()]
        say(["", *in_columns(rows, left=len(rows[0]))], whole=True)
    say(["", f"tables:     {outcome.folder}", f"the report: intruders report {outcome.folder}"], whole=True)
    say([WITHOUT_VERDICTS])
    if outcome.failed:
        raise typer.Exit(ExitStatus.FAILED)


def print_plan(
    study: "Study",
    out: str | None,
    must_exist: bool = False,
    expected: "Callable[[Sequence[Run]], Iterable[str]]" = lambda runs: (),
) -> None:
    """Print the runs, their work and what is ``expected``. SettingError where the study could not run in ``out``."""
    from ..reports.terminal import in_columns
    from ..studies.inputs import require_contents, require_inputs, taken_from_the_hub
    from ..studies.runs import expand
    from ..studies.stages import amounts_of, table_of
    from ..studies.study_folder import StudyFolder
    from ..system.files import user_path
    from ..system.store import is_url

    runs = expand(study)
    require_inputs(runs)
    require_contents(runs)
    if out is not None and not is_url(out):
        StudyFolder(user_path(out)).require_is_for(study, must_exist=must_exist)
    table = table_of(runs)
    say(in_columns(table, left=len(table[0])), whole=True)
    say(["", *amounts_of(runs), *expected(runs)])
    say(
        f"base: {base!r} names no local folder and is taken from the Hub" for base in taken_from_the_hub(runs)
    )


@contextmanager
def study_progress() -> "Iterator[StudyProgress]":
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

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    def on_start(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if done:
            tell(f"{done} of {total} runs are finished already")

    def on_precision(precision: str) -> None:
        tell(f"runs whose precision is auto are trained in {precision}, as the finished ones")

    at_work = ""

    def on_stage(run: "Run", stage: str) -> None:
        nonlocal at_work
        at_work = f"{run.id}: {stage}"
        bar.update(task, description=at_work)

    def on_step(step: int, steps: int) -> None:
        bar.update(task, description=f"{at_work}, step {step} of {steps}")

    def on_run(run: "Run", status: str, done: int, total: int) -> None:
        bar.update(task, completed=done)
        tell(f"{done}/{total} {run.id} {status}, {duration(time.monotonic() - began)} since the start")

    with bar:
        yield StudyProgress(on_start, on_stage, on_run, on_step, on_precision)


def print_outcome(outcome: "StudyOutcome") -> None:
    say([f"{outcome.finished} of {outcome.runs} runs finished, {len(outcome.failed)} failed"])
    if outcome.taken_over:
        say([f"  {len(outcome.taken_over)} of them taken over from published tables"])
    print_refused(outcome.refused)
    say(f"  {run_id}: {error}" for run_id, error in outcome.failed.items())
    if outcome.others:
        others = plural(len(outcome.others), "run")
        say([f"  {others} of an earlier version of the file kept, not in the tables"])


def print_refused(refused: dict[str, str]) -> None:
    say(f"  not taken over: {run_id}: {reason}" for run_id, reason in refused.items())
