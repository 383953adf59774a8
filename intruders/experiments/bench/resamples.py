"""Resampled documents and examples, the same ones for every model, so that all differences are paired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...measures.intervals import RESAMPLES
from ...measures.losses import DocumentLosses
from ...measures.outcome import Outcome
from .interpolation_curve import Numbers

_AT_ONCE = 1000


class Resamples:
    """Counts of every document and example per resample: once each in the first row, at random in the others.

    A loss has one number per row: that of the data themselves, then one per resample.
    """

    def __init__(self, like: Outcome, weights: dict[str, list[float]], seed: int) -> None:
        """Draw the resamples; ``weights`` are those of the parts of every corpus."""
        generator = np.random.default_rng(seed)
        self._weights, self.seed = weights, seed
        self._documents = {
            name: [_drawn(len(part.sums), generator) for part in parts]
            for name, parts in like.corpora.items()
        }
        self._examples = {name: _drawn(len(task.losses.sums), generator) for name, task in like.tasks.items()}

    @property
    def documents(self) -> int:
        """The number of documents of the smallest corpus."""
        return min(int(part.shape[1]) for parts in self._documents.values() for part in parts)

    def examples(self, task: str) -> int:
        return int(self._examples[task].shape[1])

    def corpus_loss(self, outcome: Outcome, name: str) -> Numbers:
        """Return the loss per token of one corpus, (1 + resamples,)."""
        parts = zip(outcome.corpora[name], self._documents[name], self._weights[name], strict=True)
        weighed = [weight * _ratio(losses, drawn) for losses, drawn, weight in parts]
        means: Numbers = np.sum(weighed, axis=0) / sum(self._weights[name])
        return means

    def loss(self, outcome: Outcome) -> Numbers:
        """Return the mean over all corpora."""
        means: Numbers = np.mean([self.corpus_loss(outcome, name) for name in outcome.corpora], axis=0)
        return means

    def task_loss(self, outcome: Outcome, name: str) -> Numbers:
        """Return the loss per token of the targets of one task."""
        return _ratio(outcome.tasks[name].losses, self._examples[name])


def _drawn(count: int, generator: np.random.Generator) -> npt.NDArray[np.uint16]:
    random = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), random]).astype(np.uint16)


def _ratio(losses: DocumentLosses, drawn: npt.NDArray[np.uint16]) -> Numbers:
    ratios: Sequence[Numbers] = [
        (rows @ losses.sums) / (rows @ losses.tokens)
        for start in range(0, len(drawn), _AT_ONCE)
        for rows in [drawn[start : start + _AT_ONCE].astype(np.float64)]
    ]
    return np.concatenate(ratios)
