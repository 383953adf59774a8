"""Running a study: missing runs are done here, in several processes, or on a cluster, and tables are written."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..system.folders import locked_folder, make_folder
from ..system.result_protocol import JsonResult
from .inputs import digests_of_inputs, require_inputs
from .runs import Run, expand
from .study import Study
from .study_folder import RunRecord, StudyFolder
from .tables import refuse_newer_tables, rows_of, write_tables
from .work import FILES, Workplace, precisions_of


@dataclass(frozen=True)
class StudyProgress:
    """Functions that are called as a study proceeds; by default they do nothing."""

    on_start: Callable[[int, int], None] = lambda done, total: None
    on_stage: Callable[[Run, str], None] = lambda run, stage: None
    on_run: Callable[[Run, str, int, int], None] = lambda run, status, done, total: None
    # Of the training, where runs are in this process.
    on_step: Callable[[int, int], None] = lambda step, steps: None
    on_precision: Callable[[str], None] = lambda precision: None  # where auto is another one on this machine


@dataclass(frozen=True)
class StudyOutcome(JsonResult):
    """The outcome of a call of :func:`run_study`; the results are the tables in the folder.

    Attributes:
      folder: the folder of the study.
      runs: number of runs of the study file.
      finished: number of finished ones.
      failed: ids of failed runs, each with its error in one line.
      others: ids of runs in the folder that are not of this file.
      taken_over: ids of runs whose rows came from published tables.
      refused: ids of published runs that were not taken over, each with the reason.
    """

    what = "the outcome of a study"

    folder: Path
    runs: int
    finished: int
    failed: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    taken_over: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def run_study(
    study: Study,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    ray: str | bool = False,
    progress: StudyProgress | None = None,
    take_over: Callable[[StudyFolder], list[str]] | None = None,
) -> StudyOutcome:
    """Run or resume a study in the folder ``out``, and write the tables after every run.

    A finished run is kept, an interrupted one resumes, and a failed one is tried again. If a run fails, the others
    proceed.

    Args:
      study: The study, from :func:`read_study`.
      out: A folder, or a URL that fsspec can open.
      resume: Refuse a folder without a study to resume (default: False).
      jobs: Number of runs at once on this machine (default: 1).
      ray: Give the runs to Ray: the address of a cluster, or True for the one that RAY_ADDRESS names, else for a Ray
        on this machine (default: False).
      progress: Functions that are called as runs start and end (default: none).
      take_over: Writes finished runs of another study into the folder, and returns their ids (default: none).

    Returns:
      The folder and the number of runs and finished runs, with the failed runs and their errors. Further fields list
      runs that are not in the file any more, and the runs taken over or refused.

    Raises:
      SettingError: a setting is out of range, a data file does not exist, or the folder cannot be used.
      CheckpointError: a base is a path without a model.
      ResultFileError: a newer version wrote the tables in ``out``.
      MissingDependencyError: Ray or a package for the URL is not installed.
      IntrudersError: the Ray cluster or the store at the URL failed.
      DiskFullError: the disk is full. Finished runs are kept.
      KeyboardInterrupt: the user interrupted the study. Finished stages are kept.

    Examples:
      With a base in the folder ``base``, a study of one short run:

      >>> from intruders import read_study
      >>> few = "rank: 2, steps: 2, max_train_samples: 8, max_eval_samples: 2"
      >>> text = f"experiments: {{short: {{base: base, task: pydoc-topics, {few}}}}}"
      >>> _ = Path("short.yaml").write_text(text)
      >>> outcome = run_study(read_study("short.yaml"), "short")
      >>> outcome.runs, outcome.finished
      (1, 1)
    """
    if not isinstance(study, Study):
        raise SettingError(f"study is {study!r}; expected a study that was read; pass read_study({study!r})")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise SettingError(f"jobs is {jobs!r}; expected a number of runs at once, 1 or more")
    if jobs > 1 and ray is not False:
        raise SettingError(
            f"jobs is {jobs} beside Ray, which decides itself how many runs are at work; keep one"
        )
    runs = expand(study)
    is_here = ray is False  # the workers of a cluster may have other disks
    if is_here:
        require_inputs(runs)
    workplace = Workplace.of(str(out))
    if take_over is not None and workplace.store.url is not None:
        raise SettingError(
            f"--from works with a folder on this machine, and --out is '{out}'; pass a folder as --out"
        )
    folder = workplace.folder
    for name in FILES:
        workplace.store.bring(name)
    folder.require_is_for(study, must_exist=resume)
    make_folder(folder.path)
    progress = progress or StudyProgress()
    with locked_folder(folder.path), ExitStack() as cleanup:
        refuse_newer_tables(folder)
        inputs = digests_of_inputs(runs) if is_here else {}
        workplace.refresh(runs)
        folder.require_same_inputs(inputs, workplace.seen)
        folder.keep(study, runs, inputs)
        taken = take_over(folder) if take_over is not None else []
        missing = workplace.missing(runs)
        # What the finished runs were trained in, wherever that was, the others are trained in here.
        known = Counter(precisions_of(runs, workplace.seen).values()).most_common(1)
        workplace = replace(workplace, precision=known[0][0] if known else None)
        kept = len(runs) - len(missing)
        progress.on_start(kept, len(runs))
        if missing and is_here and workplace.precision is not None:
            # Here, and not above: it loads torch, which a finished study does without.
            from ..training.arguments import precision_here

            if workplace.precision != precision_here():
                progress.on_precision(workplace.precision)

        rows = {run.id: rows_of(run, workplace.seen.run(run.id)) for run in runs}

        def keep_tables() -> None:
            write_tables(folder, rows.values())
            for name in FILES:
                workplace.store.send(name)

        keep_tables()
        over = cleanup.enter_context(closing(_at_work(missing, workplace, study, jobs, ray, progress)))
        for done, run in enumerate(over, start=kept + 1):
            workplace.refresh([run])
            rows[run.id] = rows_of(run, workplace.seen.run(run.id))
            keep_tables()
            status = str(RunRecord(workplace.seen.run(run.id)).read().get("status"))
            progress.on_run(run, status, done, len(runs))
        records = {run.id: RunRecord(workplace.seen.run(run.id)).read() for run in runs}
        failed = {name: record for name, record in records.items() if record.get("status") == "failed"}
        return StudyOutcome(
            folder.path,
            len(runs),
            sum(record.get("status") == "finished" for record in records.values()),
            {name: str(record["error"]) for name, record in failed.items()},
            folder.others(runs),
            taken,
        )


def _at_work(
    runs: Sequence[Run],
    workplace: Workplace,
    study: Study,
    jobs: int,
    ray: str | bool,
    progress: StudyProgress,
) -> Generator[Run, None, None]:
    if ray is not False:
        from ..system.ray_cluster import map_on_ray

        # Its workers have another working directory.
        store = workplace.store
        workplace = replace(workplace, store=replace(store, path=store.path.absolute()))
        yield from map_on_ray(
            runs,
            workplace.perform_quietly,
            address=None if ray is True else ray,
            cpus=study.resources.cpus,
            gpus=study.resources.gpus,
            on_lost=workplace.fail,
        )
    elif jobs > 1:
        from ..system.processes import map_in_processes

        yield from map_in_processes(
            runs,
            workplace.perform_quietly,
            jobs,
            on_start=lambda run: progress.on_stage(run, "at work"),
            on_lost=workplace.note_end,
        )
    else:

        def callbacks() -> list[Any]:
            from ..training.trainer import ShowProgress

            return [ShowProgress(lambda stage, done, in_all: progress.on_step(done, in_all))]

        for run in runs:
            workplace.perform(run, callbacks, partial(progress.on_stage, run))
            yield run
