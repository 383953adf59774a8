"""What a remedy is: a value that says what it reads of a tuned matrix, and what it changes there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...audits.records import AuditedMatrix
from ...engine.components import Components
from ...errors import SettingError
from ...linalg.operators import Update
from ..changes import Change


@dataclass(frozen=True)
class Triplets:
    """Singular triplets of one matrix: which, and of what."""

    of: Literal["tuned", "update"]
    indices: tuple[int, ...]  # in the descending order of the singular values


@dataclass(frozen=True)
class Case:
    """A tuned matrix with intruders, and what the remedies need of it; in the units of the checkpoint."""

    matrix: AuditedMatrix
    update: Update  # D, (m, n)
    parts: Mapping[
        Triplets, Components
    ]  # the update's are fewer than were asked for, where its rank is lower


@dataclass(frozen=True)
class Remedy(ABC):
    """A change of every matrix that has intruders.

    A remedy is a file of this folder and a line of ``every_remedy.py``. It may have more fields than these two.
    """

    name: ClassVar[str]
    is_control: ClassVar[bool]

    scale: float  # the share of the singular vectors that is kept: 0 removes them, 1 changes nothing
    seed: int = 0  # of a remedy that draws

    def __post_init__(self) -> None:
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not number or not math.isfinite(self.scale) or self.scale < 0:
            raise SettingError(
                f"scale is {self.scale!r}; expected the share of the intruders to keep: 0 removes them, 1 changes "
                "nothing"
            )

    @abstractmethod
    def needs(self, matrix: AuditedMatrix) -> Triplets:
        """What it reads of a matrix besides the update."""

    @abstractmethod
    def change(self, case: Case) -> Change:
        """What becomes of the matrix."""

    @abstractmethod
    def sentence(self, vectors: int) -> str:
        """What was done to so many singular vectors, for people."""
