"""Losses kept per document, so that differences between models can be paired document by document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class DocumentLosses:
    """Negative log-likelihoods in nats, summed over each document, and how many tokens each sum holds."""

    measure: str  # what was measured: "cross-entropy", "pseudo-loss" or "masked-15%-estimate"
    sums: npt.NDArray[np.float64]  # (documents,)
    tokens: npt.NDArray[np.int64]  # (documents,)

    @property
    def mean(self) -> float:
        """Loss per token: every token weighs the same, whatever document it is in."""
        return float(self.sums.sum() / self.tokens.sum())
