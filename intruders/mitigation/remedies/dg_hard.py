"""Hard thresholding of the update's singular values (DG-Hard; arXiv 2605.20296)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from ...engine.components import Components
from ...linalg.low_rank import LowRank
from ...settings import setting
from .changes import Change
from .remedy import Case, SpectralRemedy

# Smaller tensors are left alone, as in the authors' code.
_FEWEST_ENTRIES = 1024
_POINTS = 200_001


@dataclass(frozen=True)
class DGHard(SpectralRemedy):
    """``W' = W0 + sum d_i p_i q_i^T`` over the d_i above ``tau = c omega(beta) / mu(beta) median(d)``.

    beta is the smaller side over the larger one, omega(beta) the optimal threshold at noise of unit variance (Gavish
    and Donoho 2014), and mu(beta) the median singular value of such noise, so that ``median(d) / mu`` is the noise's
    size. The authors' c is 1. A low-rank update is refused: most of its min(m, n) singular values are 0, so is their
    median, and the rule changes nothing.
    """

    name = "dg-hard"
    strength = "factor"
    strengths = (0.5, 1.0, 1.5, 2.0)
    source = "DG-Hard, arXiv 2605.20296"
    rank_after = "none: a low-rank update is refused"

    factor: float = setting(1.0, "Multiple c of the threshold, 0 or more.", least=0)

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        if rank is None or 2 * rank >= min(shape):
            return None
        return (
            f"remedy 'dg-hard' changes nothing in '{name}': {rank} of the {min(shape)} singular values of its update "
            "are not 0, so that their median and the threshold are 0; choose another remedy, such as truncate"
        )

    def change(self, case: Case) -> Change:
        m, n = case.matrix.shape
        if m * n < _FEWEST_ENTRIES:
            return Change()
        part = self.components(case)
        beta = min(m, n) / max(m, n)
        values = torch.zeros(min(m, n), dtype=torch.float64)
        values[: len(part.values)] = part.values.cpu()
        # The mean of the two in the middle, of an even number.
        threshold = self.factor * omega(beta) / median_of_noise(beta) * float(values.quantile(0.5))
        kept = self.kept(part, int((part.values > threshold).sum()), case.matrix.name)
        return Change(share=0.0, added=LowRank(*kept.factors(1.0)) if len(kept.values) else None)

    def kept(self, part: Components, count: int, name: str) -> Components:
        """The ``count`` terms of D that stay: those above the threshold."""
        return part.first(count)

    def sentence(self, vectors: int) -> str:
        times = "" if self.factor == 1 else f"{self.factor:g} times "
        return f"updates cut to the singular values above {times}the threshold of their noise"


def omega(beta: float) -> float:
    """The optimal hard threshold of an m x n matrix in noise of variance 1 / max(m, n), by ``beta``.

    >>> round(omega(1.0), 4)  # 4 / sqrt(3)
    2.3094
    """
    root = (beta + 1) + math.sqrt(beta**2 + 14 * beta + 1)
    return math.sqrt(2 * (beta + 1) + 8 * beta / root)


@lru_cache(maxsize=64)  # a model has few shapes
def median_of_noise(beta: float) -> float:
    """The median singular value of such noise, of the Marchenko-Pastur law with edges ``1 -+ sqrt(beta)``.

    >>> round(median_of_noise(1.0), 5)  # of the quarter circle
    0.80795
    """
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)
    # x^2 = (low^2 + high^2) / 2 - (high^2 - low^2) / 2 cos(t) takes the square roots off both edges of the density.
    t = torch.linspace(0, math.pi, _POINTS, dtype=torch.float64)
    squares = (low**2 + high**2) / 2 - (high**2 - low**2) / 2 * torch.cos(t)
    # Squares have the density sqrt((high^2 - y) (y - low^2)) / y; at beta 1, sin(t)^2 / (1 - cos(t)) is 1 + cos(t).
    weights = 1 + torch.cos(t) if beta == 1 else torch.sin(t).square() / squares
    mass = torch.cumulative_trapezoid(weights, t)
    middle = int(torch.searchsorted(mass, mass[-1] / 2))
    return math.sqrt(float((squares[middle] + squares[middle + 1]) / 2))
