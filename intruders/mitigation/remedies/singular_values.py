"""The singular values of updates: made equal, cut to some of them, or held below the size of an intruder."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from ...linalg.svd import ZERO_SHARE
from ...settings import setting
from .changes import Change
from .remedy import Case, PublishedRemedy, SpectralRemedy, WantedTriplets

# Of DG-Hard: smaller tensors are left alone, as in the authors' code.
_FEWEST_ENTRIES = 1024
_POINTS = 200_001


@dataclass(frozen=True)
class Flatten(SpectralRemedy):
    """``W' = W0 + c sum_i p_i q_i^T``: all r singular values of D become one value c.

    ``c = sum_i d_i / r`` keeps the nuclear norm of D (the default), ``c = ||D||_F / sqrt(r)`` the Frobenius norm.
    ``strength`` multiplies c; 1 is the report's. A rank-one update stays as it is at strength 1.
    """

    name = "flatten"
    strength = "factor"
    strengths = (1.0, 0.8, 0.6, 0.4)
    source = "report on 18 LoRA adapters, 2026, not peer reviewed"

    factor: float = setting(1.0, "Multiple of the flat singular value, 0 or more.", least=0)
    norm: str = setting(
        "nuclear", "Norm of the update that factor 1 keeps.", choices=("nuclear", "frobenius")
    )

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        if rank is not None:
            return None
        return (
            f"remedy 'flatten' cannot change '{name}', whose update has no low rank to spread over; pass an adapter, "
            "or choose another remedy"
        )

    def change(self, case: Case) -> Change:
        part = self.directions(case)
        values = part.values
        if len(values) == 0:
            return Change()  # D is zero, and stays
        flat = values.mean() if self.norm == "nuclear" else values.square().mean().sqrt()
        level = part.with_values(torch.full_like(values, self.factor * float(flat)))
        return Change(share=0.0, added=LowRank(*level.factors(1.0)))

    def sentence(self, vectors: int) -> str:
        times = "" if self.factor == 1 else f", times {self.factor:g}"
        return f"every update's singular values made equal at its {self.norm} norm{times}"


@dataclass(frozen=True)
class Truncate(SpectralRemedy):
    """``W' = W0 + sum_{i <= r'} d_i p_i q_i^T``: the fewest leading terms of D with a share of ``sum_i d_i^2``.

    The paper names no share that could be read; 0.9 is this package's default.
    """

    name = "truncate"
    strength = "energy"
    nothing_at = 1
    strengths = (0.95, 0.9, 0.75, 0.5)
    source = "arXiv 2606.07596"
    in_words = "updates cut to the leading directions with {energy:.1%} of their energy"

    energy: float = setting(
        0.9,
        "Share of the update's squared singular values that stays, above 0 and at most 1.",
        above=0,
        most=1,
    )

    def change(self, case: Case) -> Change:
        part = self.components(case)
        squares = part.values.square()
        # A share that a sum of leading squares has exactly may not cost a term more by rounding.
        wanted = self.energy * squares.sum() * (1 - 1e-12)
        count = int((squares.cumsum(0) < wanted).sum()) + 1
        if not bool((part.values[count:] > ZERO_SHARE * part.values[0]).any()):
            return Change()  # every term stays, as the only one of a rank-one update does
        return Change(share=0.0, added=LowRank(*self.kept(part, count, case.matrix.name).factors(1.0)))


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

    def sentence(self, vectors: int) -> str:
        times = "" if self.factor == 1 else f"{self.factor:g} times "
        return f"updates cut to the singular values above {times}the threshold of their noise"


@dataclass(frozen=True)
class Budget(PublishedRemedy):
    """``W' = W0 + min(1, kappa theta / sigma_1(D)) D`` with theta from the base's spectrum alone.

    theta is the spiked threshold (``intruders/linalg/spiked_threshold.py``) at the audit's k and epsilon: the size at
    which a rank-one term in random directions becomes an intruder. The paper limits alpha layer by layer; kappa 1 is
    this package's default.
    """

    name = "budget"
    strength = "kappa"
    strengths = (2.0, 1.0, 0.5, 0.25)
    source = "arXiv 2607.23711; the rule in detail: ours"
    in_words = "updates limited to {kappa:g} times their matrix's spiked threshold"
    needs_threshold = True
    scales_whole_updates = True

    kappa: float = setting(
        1.0, "Multiple of the spiked threshold that an update may reach, 0 or more.", least=0
    )

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return (WantedTriplets.leading("update", 1),)

    def change(self, case: Case) -> Change:
        assert case.threshold is not None
        size = float(self.components(case).values[0])
        return Change(share=min(1.0, self.kappa * case.threshold / size) if size > 0 else 1.0)


def omega(beta: float) -> float:
    """The optimal hard threshold of an m x n matrix in noise of variance 1 / max(m, n), by ``beta``."""
    root = (beta + 1) + math.sqrt(beta**2 + 14 * beta + 1)
    return math.sqrt(2 * (beta + 1) + 8 * beta / root)


@lru_cache(maxsize=64)  # a model has few shapes
def median_of_noise(beta: float) -> float:
    """The median singular value of such noise, of the Marchenko-Pastur law with edges ``1 -+ sqrt(beta)``."""
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)
    # x^2 = (low^2 + high^2) / 2 - (high^2 - low^2) / 2 cos(t) takes the square roots off both edges of the density.
    t = torch.linspace(0, math.pi, _POINTS, dtype=torch.float64)
    squares = (low**2 + high**2) / 2 - (high**2 - low**2) / 2 * torch.cos(t)
    # Squares have the density sqrt((high^2 - y) (y - low^2)) / y; at beta 1, sin(t)^2 / (1 - cos(t)) is 1 + cos(t).
    weights = 1 + torch.cos(t) if beta == 1 else torch.sin(t).square() / squares
    mass = torch.cumulative_trapezoid(weights, t)
    middle = int(torch.searchsorted(mass, mass[-1] / 2))
    return math.sqrt(float((squares[middle] + squares[middle + 1]) / 2))
