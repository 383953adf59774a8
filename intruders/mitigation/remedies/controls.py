"""Controls: what is changed in the place of what a remedy changes, to test whether its choice mattered.

An intervention shows a cause only against what else could explain its effect. Controls of the intruders are applied at
the same scale, to the same matrices, and to as many directions. A matched control takes the dose of any remedy without
its directions, or its directions without the dose.
"""

import math
import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from .changes import Change
from .remedy import Case, Remedy, ScaledIntruders, ScaledRemedy, WantedTriplets, intruder_indices
from .remedy_table import SHRINK_OUTPUT

# Norms that agree to this share of their square are equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Complement(ScaledRemedy):
    """``W' = W0 + (1 - a) D + a Y Y^T D``: the update shrunk outside of the intruders' left singular vectors Y.

    a gives it the norm that scaling the intruders leaves: ``(1 - a)^2 = (||D'||^2 - ||Y^T D||^2) / (||D||^2 - ||Y^T
    D||^2)``. That exists where ``||Y^T D|| <= ||D'|| <= ||D||``; other matrices stay as they are. Would removing the
    rest do as well?
    """

    name = "complement"
    in_words = (
        "control: updates shrunk outside of {vectors:,} intruders, to the norms that scaling these by {scale:g} "
        "leaves"
    )

    def exists(self, case: Case) -> bool:
        return self._share_outside(case) is not None

    def change(self, case: Case) -> Change:
        share = self._share_outside(case)
        if share is None:
            return Change()
        left = case.parts[self.scaled(case.matrix)].left  # Y^T, (c, m)
        return Change(share, LowRank((1 - share) * left.mT, _inside(case, left)))

    def _share_outside(self, case: Case) -> float | None:
        """1 - a."""
        left = case.parts[self.scaled(case.matrix)].left
        whole = case.update.norm() ** 2
        inside = float(_inside(case, left).square().sum())
        wanted = ScaledIntruders(self.scale, which=self.which).change(case).norm_of(case.update) ** 2
        outside = whole - inside
        if (
            outside <= _ROUNDING * whole
            or not -_ROUNDING * whole <= wanted - inside <= outside + _ROUNDING * whole
        ):
            return None
        return math.sqrt(min(1.0, max(0.0, (wanted - inside) / outside)))


def _inside(case: Case, left: Tensor) -> Tensor:  # Y^T D, (c, n)
    return case.update.double().apply_transpose(left.to(case.update.device))


@dataclass(frozen=True)
class OtherVectors(ScaledIntruders):
    """Top-k singular vectors that are not intruders, scaled in their place; fewer where there are fewer."""

    @abstractmethod
    def chosen(self, intruders: tuple[int, ...], others: list[int], matrix: AuditedMatrix) -> list[int]:
        """Choose among the indices of the others."""

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        others = [vector.index for vector in matrix.vectors if not vector.intruder]
        chosen = self.chosen(intruder_indices(matrix, self.which), others, matrix)
        return WantedTriplets("tuned", tuple(sorted(chosen)))

    def exists(self, case: Case) -> bool:
        return bool(self.scaled(case.matrix).indices) or not intruder_indices(case.matrix, self.which)


@dataclass(frozen=True)
class RandomVectors(OtherVectors):
    """As many of them as there are intruders, drawn by seed. Did it matter that they were intruders?"""

    name = "random"
    in_words = "control: {vectors:,} random vectors that are not intruders scaled by {scale:g}"

    def chosen(self, intruders: tuple[int, ...], others: list[int], matrix: AuditedMatrix) -> list[int]:
        drawn = random.Random(f"{self.seed} {matrix.name}")
        return drawn.sample(others, min(len(intruders), len(others)))


@dataclass(frozen=True)
class Neighbours(OtherVectors):
    """For each intruder the one nearest to it in rank.

    Did it matter that they were intruders, at similar singular values?
    """

    name = "neighbours"
    in_words = "control: {vectors:,} vectors next in rank to intruders scaled by {scale:g}"

    def chosen(self, intruders: tuple[int, ...], others: list[int], matrix: AuditedMatrix) -> list[int]:
        chosen: list[int] = []
        for intruder in intruders[: len(others)]:
            left = set(others).difference(chosen)
            chosen.append(min(left, key=lambda other: (abs(other - intruder), other)))
        return chosen


@dataclass(frozen=True)
class UpdateDirections(ScaledIntruders):
    """The same number of leading singular directions of the update D, instead of those of W.

    Did it matter where the directions were looked for?
    """

    name = "update"
    in_words = "control: {vectors:,} leading directions of the update scaled by {scale:g}"

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        return WantedTriplets("update", tuple(range(len(intruder_indices(matrix, self.which)))))


def _of_the_remedy(name: str) -> Any:
    """A member that is the remedy's own, and differs from value to value."""
    return property(lambda control: getattr(control.remedy, name))


@dataclass(frozen=True)
class MatchedControl(Remedy):
    """A control that is matched to what ``remedy`` makes of a matrix."""

    reach = _of_the_remedy("reach")
    needs_threshold = _of_the_remedy("needs_threshold")
    needs_base = _of_the_remedy("needs_base")
    changes_nothing = _of_the_remedy("changes_nothing")
    intruder_scale = _of_the_remedy("intruder_scale")
    refusal = _of_the_remedy("refusal")
    needs = _of_the_remedy("needs")
    scaled = _of_the_remedy("scaled")

    remedy: Remedy

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

    def sentence(self, vectors: int) -> str:
        scale = self.intruder_scale
        what = f"remedy {self.remedy.name}" if scale is None else f"scaling their intruders by {scale:g}"
        return self.in_words.format(what=what)


@dataclass(frozen=True)
class EqualNorm(MatchedControl):
    """The whole update times one number per matrix: ``||W' - W0||_F`` is the remedy's. Do directions matter?"""

    name = "shrink"
    in_words = "control: updates shrunk to the norms that {what} leaves"

    def matched(self, case: Case, change: Change) -> Change:
        return Change(share=change.norm_of(case.update, case.base) / case.update.norm())


@dataclass(frozen=True)
class EqualOutput(MatchedControl):
    """The whole update times one number per matrix: the mean of ``||(W' - W0) h||^2`` is the remedy's.

    h are inputs of the matrix in the base model, ``inputs[name]`` of shape (count, n). A matrix without inputs is
    matched by its norm. Is it the dose alone, as the model feels it?
    """

    name = SHRINK_OUTPUT
    in_words = "control: updates shrunk to the output energies that {what} leaves"

    inputs: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def matched(self, case: Case, change: Change) -> Change:
        inputs = self.inputs.get(case.matrix.name)
        if inputs is not None:
            before = Change().output_energy(case.update, inputs)
            if before > 0:
                return Change(share=math.sqrt(change.output_energy(case.update, inputs, case.base) / before))
        return EqualNorm(self.remedy).matched(case, change)


@dataclass(frozen=True)
class EqualSize(MatchedControl):
    """The remedy's result scaled back to ``||D||_F`` per matrix, to tell the removal from the shrinking."""

    name = "resized"
    fits_an_adapter = _of_the_remedy("fits_an_adapter")

    def exists(self, case: Case) -> bool:
        return self.remedy.change(case).norm_of(case.update, case.base) > 0

    def matched(self, case: Case, change: Change) -> Change:
        left = change.norm_of(case.update, case.base)
        return change.times(case.update.norm() / left) if left > 0 else Change()

    def sentence(self, vectors: int) -> str:
        return f"control: {self.remedy.sentence(vectors)}, and updates brought back to their norms"
