"""Interventions on one matrix: ``W' = W0 + t D + (lambda - 1) C`` with D = W - W0.

C is a part of the matrix: the intruders' ``sum_j s_j y_j v_j^T`` with s, y, v from the singular value decomposition
of W (Shuttleworth et al. 2024), or what a control takes in their place; t is 1 but for the control ``shrink``.
lambda = 1 changes nothing, 0 removes, and above 1 exaggerates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import SettingError
from ..linalg.lowrank import lowrank_inner
from .components import Components


def check_scale(scale: object) -> None:
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale) or scale < 0:  # type: ignore[arg-type, operator]
        raise SettingError(
            f"scale is {scale!r}; expected the share of the intruders to keep: 0 removes them, 1 changes nothing"
        )


@dataclass(frozen=True)
class Update:
    """D = W - W0 of one matrix, as factors or dense."""

    left: Tensor | None = None  # (m, r)
    right: Tensor | None = None  # (r, n)
    dense: Tensor | None = None  # (m, n)

    @property
    def rank(self) -> int | None:
        return None if self.left is None else self.left.shape[1]

    def factors(self) -> tuple[Tensor, Tensor] | None:
        return None if self.left is None or self.right is None else (self.left, self.right)

    def matrix(self) -> Tensor:
        """D itself (m, n), in the dtype it is kept in."""
        factors = self.factors()
        if factors is not None:
            return factors[0] @ factors[1]
        assert self.dense is not None
        return self.dense

    def inner(self, left: Tensor, right: Tensor) -> float:
        """``tr(D^T left right)`` in double precision, of (m, c) and (c, n) factors."""
        factors = self.factors()
        if factors is not None:
            return float(lowrank_inner(factors, (left, right)))
        assert self.dense is not None
        return float(((left.double().mT @ self.dense.double()) * right.double()).sum())

    def norm(self) -> float:
        """``||D||_F``."""
        factors = self.factors()
        if factors is not None:
            return math.sqrt(max(0.0, float(lowrank_inner(factors, factors))))
        assert self.dense is not None
        return float(self.dense.double().square().sum().sqrt())


@dataclass(frozen=True)
class Change:
    """One matrix under one intervention: ``W' = W0 + update_factor * D + left @ right``."""

    update_factor: float
    left: Tensor  # (m, c), double
    right: Tensor  # (c, n), double
    norm: float  # ||W' - W0||_F

    def factors(self, update: Update) -> tuple[Tensor, Tensor] | None:
        """``W' - W0`` as (m, r + c) and (r + c, n) factors; None where the update has none."""
        own = update.factors()
        if own is None:
            return None
        left, right = own[0].double(), own[1].double()
        if self.left.shape[1] == 0:
            return self.update_factor * left, right
        return torch.cat([self.update_factor * left, self.left], 1), torch.cat([right, self.right], 0)

    def applied(self, tuned: Tensor, update: Update) -> Tensor:
        """W' from W ``(m, n)``, in double precision: ``W + (t - 1) D + left @ right``."""
        result = tuned.double() + self.left @ self.right
        if self.update_factor != 1.0:
            result += (self.update_factor - 1.0) * update.matrix().double()
        return result


@dataclass(frozen=True)
class Affected:
    """A matrix with intruders, and the parts that interventions on it are made of."""

    name: str
    shape: tuple[int, int]
    update: Update = field(repr=False)
    parts: dict[str, Components] = field(repr=False)  # by control; those of "intruders" are always there
    places: dict[str, list[int]] = field(
        repr=False
    )  # of the same, in W's descending order (of "update": in D's)

    def change(self, scale: float, control: str) -> Change:
        """The matrix under ``control`` (or "intruders") at ``scale``."""
        if control == "shrink":
            return self._shrunk(scale)
        left, right = self.parts[control].factors(scale - 1.0)
        return Change(1.0, left, right, self._norm_with(left, right))

    def _shrunk(self, scale: float) -> Change:
        target = self.change(scale, "intruders").norm
        norm = self.update.norm()
        m, n = self.shape
        device = self.parts["intruders"].left.device
        none = (
            torch.zeros(m, 0, dtype=torch.float64, device=device),
            torch.zeros(0, n, dtype=torch.float64, device=device),
        )
        return Change(target / norm, *none, target)

    def _norm_with(self, left: Tensor, right: Tensor) -> float:
        """``||D + left @ right||_F`` from inner products."""
        added = float(lowrank_inner((left, right), (left, right)))
        squared = self.update.norm() ** 2 + 2 * self.update.inner(left, right) + added
        return math.sqrt(max(0.0, squared))
