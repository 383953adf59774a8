"""A stage of a run as a value: its work, its files, its columns of the tables, and its line of the plan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.writing.training_record import training_record
from ..errors import IntrudersError, NewerVersionError, ResultFileError, in_one_line, what_is_wrong
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from ..settings import Settings
from ..system.documents import read_document
from ..system.files import write_atomically
from ..system.result_protocol import json_bytes
from ..training.finetune_config import FinetuneConfig
from .runs import Run
from .study import Measure
from .study_folder import AUDIT, MODEL

if TYPE_CHECKING:
    from ..data.corpora import Corpora
    from ..data.task import Task

# The documents are a sample that is the same for all runs of a study, whatever their seed: all can be compared.
SAMPLE_SEED = 0
Callbacks = Callable[[], Sequence[Any]]  # makes those of transformers' Trainer, new ones for every training
Rows = dict[str, list[dict[str, Any]]]  # by table
Columns = Mapping[str, type]  # str, int, float or bool


@dataclass(frozen=True)
class RunAtWork:
    """A run, and what a stage works with."""

    run: Run
    folder: Path  # of the run
    bases: Path  # where losses of bases are kept for all runs
    callbacks: Callbacks = tuple
    precision: str | None = None  # of a training whose own is auto

    @cached_property
    def config(self) -> FinetuneConfig:
        """The settings of the training, with the precision that it began with, or that the finished runs had."""
        config = self.run.config
        assert config is not None
        if config.precision == "auto" and (used := began_in(self.folder).get("precision", self.precision)):
            config = replace(config, precision=used)
        return replace(config, out=self.model)

    @property
    def model(self) -> str:
        return str(self.folder / MODEL)

    @property
    def losses(self) -> LossSettings:
        return self.run.measure.part(LossSettings)

    @property
    def loading(self) -> Loading:
        return self.run.measure.part(Loading)

    def task(self) -> "Task":
        from ..data.load_task import load_task

        return load_task(self.config.task, self.config, self.config.data_seed)

    def corpora(self) -> "Corpora":
        """Load the documents of every corpus, by name: one entry per part of a mixture."""
        from ..data.corpora import load_all

        losses = self.run.measure
        return load_all(losses.loss_on, max_documents=losses.max_documents, seed=SAMPLE_SEED)

    def scores(self, max_examples: int | None, tasks: tuple[str, ...]) -> ScoreSettings:
        from ..data.columns import Columns

        return ScoreSettings(**self.config.part(Columns).values(), tasks=tasks, max_examples=max_examples)

    def shared(self) -> dict[str, Any]:
        """Return what every experiment with the run's model is given."""
        from ..audits.result.audit_result import Audit

        audit, data_seed = Audit.load(self.folder / AUDIT), self.config.data_seed
        return {"audit": audit, "data_seed": data_seed, "seed": SAMPLE_SEED, "loading": self.loading}

    def write(self, name: str, document: dict[str, Any]) -> None:
        write_atomically(self.folder / name, json_bytes({"schema": 1} | document, indent=1))


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work of a run. What ``do`` needs is imported inside it: plans and finished studies load no torch."""

    name: str  # as the record of a run calls it
    results: tuple[str, ...]  # files and folders in the run's folder; all exist when the stage is finished
    do: Callable[[RunAtWork], None]  # does the work, and writes the results
    # Reads from the first of its files what the run's row gets; may add rows to other tables, or columns to those of
    # stages before.
    row: Callable[[Path, Rows], dict[str, Any]]
    kind: str = "finetune"  # of the runs that have it
    wanted: Callable[[Measure], object] = lambda measure: True  # whether a run with these measures has it
    # On which its result depends, besides the run's own.
    settings: Callable[[Run], dict[str, Any]] = lambda run: {}
    columns: Columns = field(default_factory=dict)  # those of ``runs`` that it fills
    # The columns behind which the named ones, and those that follow them, stand; the others come last.
    after: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Columns] = field(default_factory=dict)  # the columns of further tables
    # The files that ``row`` reads, each a result or a file in one. Another machine brings these alone, no weights.
    for_tables: tuple[str, ...] = ()
    # Its line of the plan, of the runs that have it, or what to call it there; empty for none.
    amount: str | Callable[[Sequence[Run]], str] = ""

    @property
    def trains(self) -> bool:
        return MODEL in self.results

    @property
    def files(self) -> tuple[str, ...]:
        return self.for_tables or self.results

    def is_of(self, run: Run) -> bool:
        return run.kind == self.kind and bool(self.wanted(run.measure))

    def is_there(self, folder: Path) -> bool:
        return all((folder / result).exists() for result in self.results)


class _DamagedResultError(ResultFileError):
    """A result of a run cannot be read; the message says what to remove."""


@contextmanager
def told_what_to_remove(removed: Path, file: Path) -> Iterator[None]:
    """Say of a ``file`` that cannot be read what to remove of the run, so that the study makes it again."""
    try:
        yield
    except (NewerVersionError, _DamagedResultError):
        raise
    except (IntrudersError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        told = f"'{file}' is something else ({in_one_line(error)})"
        if isinstance(error, ResultFileError):
            told = what_is_wrong(error)  # without what to do where it is no result of a study
        raise _DamagedResultError(
            f"{told}; expected what the study wrote; remove '{removed}', and run the study again, which makes it "
            "again and keeps all else"
        ) from error


def began_in(folder: Path) -> dict[str, Any]:
    """Return the record of the training in a run's folder, or of the first of a sequence; empty without one."""
    return training_record(folder / MODEL) or training_record(folder / MODEL / "stage-1") or {}


def audited(run: Run) -> dict[str, Any]:
    return run.measure.audit.recorded()


def evaluated(run: Run) -> dict[str, Any]:
    measure = run.measure
    losses = measure.part(LossSettings).recorded()
    return losses | {"max_examples": measure.max_examples} | measure.part(Loading).recorded()


def prefixed(name: str, measured: Settings | None) -> dict[str, Any]:
    """Return the settings of a further measure, which a result of it depends on."""
    return {} if measured is None else {f"{name}_{key}": value for key, value in measured.recorded().items()}


def read_result(file: Path) -> dict[str, Any]:
    """Read a result that :meth:`RunAtWork.write` wrote."""
    document = read_document(file, "a result of intruders", 1)
    if document is None:
        raise ResultFileError(f"'{file}' is missing; run the study again")
    return document
