"""Critical scales as a result: counted, saved, and read back in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..system.documents import json_number
from ..version import __version__

SCHEMA = 1

# The model's answer keeps this distance below the first scale with an intruder too many.
SLACK = 0.01

# Steps by which the audit alone looks for the critical scale of an update with many directions.
WALK = 0.03


@dataclass(frozen=True)
class MatrixScale:
    """The critical scale of one matrix, as a multiple of the update as it is."""

    name: str
    shape: tuple[int, int]
    measured: float  # infinite where there is no intruder up to ``searched``
    predicted: float  # theta / sigma_1(D), theta from the spectrum of W0 alone; infinite where there is none
    searched: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "measured": json_number(self.measured),
            "predicted": json_number(self.predicted),
            "searched": self.searched,
        }


@dataclass(frozen=True)
class CriticalScales:
    """The critical scales of a model's matrices, and the largest scale that keeps it to a number of intruders."""

    base_source: str
    tuned_source: str
    k: int
    epsilon: float
    target: int
    largest: float  # at this scale the audit counts ``intruders_at_largest``, at most ``target``
    intruders_at_largest: int
    matrices: list[MatrixScale]
    seconds: float

    @property
    def within_factor_two(self) -> float:
        """Share of the matrices with a measured scale whose prediction is within a factor of two of it."""
        both = self._both()
        return sum(0.5 <= p / m <= 2 for m, p in both) / len(both) if both else math.nan

    @property
    def rank_correlation(self) -> float:
        """Spearman's between measured and predicted scales, over the matrices that have both."""
        both = self._both()
        if len(both) < 2:
            return math.nan
        ranks = [_ranks([pair[side] for pair in both]) for side in (0, 1)]
        stacked = torch.stack(ranks)
        return float(torch.corrcoef(stacked)[0, 1])

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values; null for an infinite or undefined number."""

        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "base": {"source": self.base_source},
            "tuned": {"source": self.tuned_source},
            "settings": {"k": self.k, "epsilon": self.epsilon, "target": self.target},
            "largest_scale": json_number(self.largest),
            "intruders_at_largest_scale": self.intruders_at_largest,
            "within_factor_two": json_number(self.within_factor_two),
            "rank_correlation": json_number(self.rank_correlation),
            "seconds": self.seconds,
            "matrices": [matrix.as_dict() for matrix in self.matrices],
        }

    def _both(self) -> list[tuple[float, float]]:
        return [
            (matrix.measured, matrix.predicted)
            for matrix in self.matrices
            if math.isfinite(matrix.measured) and math.isfinite(matrix.predicted) and matrix.predicted > 0
        ]


def _ranks(values: Sequence[float]) -> Tensor:
    """Ranks, equal values sharing theirs."""
    tensor = torch.tensor(values, dtype=torch.float64)
    below = (tensor[:, None] > tensor[None, :]).sum(1)
    equal = (tensor[:, None] == tensor[None, :]).sum(1)
    return below + (equal - 1) / 2
