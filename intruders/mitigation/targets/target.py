"""Where a remedy's result goes, and what writing did to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...checkpoints.opening.open import Source
from ...checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ...checkpoints.writing.training_record import keep_training
from ...linalg.low_rank import LowRank
from ...system.folders import atomic_folder
from ...system.progress import Progress
from ...system.result_protocol import Result
from ..remedies.changes import Change


@dataclass(frozen=True)
class ChangedMatrix:
    """One changed matrix, as a target takes it."""

    change: Change
    update: LowRank | None  # D, where it came as factors


@dataclass(frozen=True)
class Cut:
    """The ranks of updates after writing, by the base's names of the matrices."""

    ranks: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative, in the Frobenius norm


@dataclass(frozen=True)
class Written:
    """A model that a remedy changed, as an audit opens it."""

    base: Source | None
    tuned: Source
    cut: Cut
    folder: Path | None = None  # None in memory

    def keep(self, name: str, record: Result) -> None:
        """Save a result beside the weights; in memory there is no place for it."""
        if self.folder is not None:
            record.save(self.folder / name)


class Target(Protocol):
    """A folder, or a model in memory."""

    @property
    def form(self) -> str:
        """ "adapter" or "checkpoint"."""

    def writing(
        self,
        changed: Mapping[str, ChangedMatrix],
        progress: Progress,
        elsewhere: Elsewhere = everywhere_as_tuned,
    ) -> AbstractContextManager[Written]:
        """Write the tuned model with the changed matrices; what is written is there for good when the block ends.

        ``elsewhere`` says what share of its update any other tensor keeps.
        """


class FolderContent(Protocol):
    """The files that are written into a folder."""

    @property
    def form(self) -> str: ...

    def write(
        self, folder: Path, changed: Mapping[str, ChangedMatrix], elsewhere: Elsewhere, progress: Progress
    ) -> Cut: ...


@dataclass(frozen=True)
class FolderTarget:
    """A folder that appears whole or not at all."""

    content: FolderContent
    folder: Path
    force: bool
    base: Source | None  # what the content is of
    training: dict[str, Any] | None = None  # the record of the run that trained the tuned model

    @property
    def form(self) -> str:
        return self.content.form

    @contextmanager
    def writing(
        self,
        changed: Mapping[str, ChangedMatrix],
        progress: Progress,
        elsewhere: Elsewhere = everywhere_as_tuned,
    ) -> Iterator[Written]:
        with atomic_folder(self.folder, force=self.force) as folder:
            cut = self.content.write(folder, changed, elsewhere, progress)
            if self.training is not None:
                keep_training(self.training, folder)
            yield Written(self.base, folder, cut, folder)
