"""Controls of any remedy: the same dose without its directions, and its directions without the dose."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from .changes import Change
from .intruders import ScaledIntruders
from .remedy import Case, Reach, Remedy, WantedTriplets
from .remedy_table import SHRINK_OUTPUT


@dataclass(frozen=True)
class MatchedControl(Remedy):
    """A control that is matched to what ``remedy`` makes of a matrix."""

    remedy: Remedy

    @classmethod
    def at_scale(cls, scale: float, seed: int, which: str) -> Self:
        """Return the control of intruders at a scale; ``which`` of a matrix's intruders."""
        return cls(ScaledIntruders(scale, seed, which))

    # These are the remedy's own, and differ from value to value.
    @property
    def reach(self) -> Reach:  # type: ignore[override]
        return self.remedy.reach

    @property
    def needs_threshold(self) -> bool:  # type: ignore[override]
        return self.remedy.needs_threshold

    @property
    def needs_base(self) -> bool:  # type: ignore[override]
        return self.remedy.needs_base

    @property
    def changes_nothing(self) -> bool:
        return self.remedy.changes_nothing

    @property
    def intruder_scale(self) -> float | None:
        return self.remedy.intruder_scale

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        return self.remedy.refusal(name, shape, rank)

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return self.remedy.needs(matrix)

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets | None:
        return self.remedy.scaled(matrix)

    @abstractmethod
    def matched(self, case: Case, change: Change) -> Change:
        """The control of a change of a matrix."""

    def change(self, case: Case) -> Change:
        change = self.remedy.change(case)
        return change if change.keeps_all else self.matched(case, change)

    def recorded(self) -> dict[str, Any]:
        return {"of": self.remedy.name, **self.remedy.recorded()}

    def recorded_by_name(self) -> dict[str, Any]:
        return self.recorded() if self.intruder_scale is None else self.remedy.recorded()

    @property
    def _what_leaves(self) -> str:
        """What it is matched to, in words."""
        scale = self.intruder_scale
        return (
            f"remedy {self.remedy.name} leaves"
            if scale is None
            else f"scaling their intruders by {scale:g} leaves"
        )


@dataclass(frozen=True)
class EqualNorm(MatchedControl):
    """The whole update times one number per matrix: ``||W' - W0||_F`` is the remedy's. Do directions matter?"""

    name = "shrink"

    def matched(self, case: Case, change: Change) -> Change:
        return Change(share=change.norm_of(case.update, case.base) / case.update.norm())

    def sentence(self, vectors: int) -> str:
        return f"control: updates shrunk to the norms that {self._what_leaves}"


@dataclass(frozen=True)
class EqualOutput(MatchedControl):
    """The whole update times one number per matrix: the mean of ``||(W' - W0) h||^2`` is the remedy's.

    h are inputs of the matrix in the base model, ``inputs[name]`` of shape (count, n). A matrix without inputs is
    matched by its norm. Is it the dose alone, as the model feels it?
    """

    name = SHRINK_OUTPUT

    inputs: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def matched(self, case: Case, change: Change) -> Change:
        inputs = self.inputs.get(case.matrix.name)
        if inputs is not None:
            before = Change().output_energy(case.update, inputs)
            if before > 0:
                return Change(share=math.sqrt(change.output_energy(case.update, inputs, case.base) / before))
        return EqualNorm(self.remedy).matched(case, change)

    def sentence(self, vectors: int) -> str:
        return f"control: updates shrunk to the output energies that {self._what_leaves}"


@dataclass(frozen=True)
class EqualSize(MatchedControl):
    """The remedy's result scaled back to ``||D||_F`` per matrix, to tell the removal from the shrinking."""

    name = "resized"

    @property
    def fits_an_adapter(self) -> bool:  # type: ignore[override]
        return self.remedy.fits_an_adapter

    def exists(self, case: Case) -> bool:
        return self.remedy.change(case).norm_of(case.update, case.base) > 0

    def matched(self, case: Case, change: Change) -> Change:
        left = change.norm_of(case.update, case.base)
        return change.times(case.update.norm() / left) if left > 0 else Change()

    def sentence(self, vectors: int) -> str:
        return f"control: {self.remedy.sentence(vectors)}, and updates brought back to their norms"
