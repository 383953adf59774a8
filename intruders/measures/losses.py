"""Losses kept per document, so that differences between models can be paired document by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class DocumentLosses:
    """Negative log-likelihoods in nats, summed over each document, and how many tokens each sum holds."""

    measure: str  # what was measured: "cross-entropy", "pseudo-loss" or "masked-15%-estimate"
    sums: npt.NDArray[np.float64]  # (documents,)
    tokens: npt.NDArray[np.int64]  # (documents,)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> DocumentLosses:
        """Read plain JSON values, bit for bit."""
        sums, tokens = (
            np.array(record["sums"], dtype=np.float64),
            np.array(record["tokens"], dtype=np.int64),
        )
        return cls(record["measure"], sums, tokens)

    @property
    def mean(self) -> float:
        """Loss per token: every token weighs the same, whatever document it is in."""
        return float(self.sums.sum() / self.tokens.sum())


def mean_loss(parts: Sequence[DocumentLosses], weights: Sequence[float]) -> float:
    """Return the weighted mean of the losses of a mixture's parts, in nats per token.

    >>> first, second = (DocumentLosses("cross-entropy", np.array([loss]), np.array([1])) for loss in (1.0, 3.0))
    >>> mean_loss([first, second], [3, 1])
    1.5
    """
    return sum(weight * part.mean for weight, part in zip(weights, parts, strict=True)) / sum(weights)
