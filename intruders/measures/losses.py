"""What one evaluation measured: losses of documents and examples, kept one by one so that models can be paired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    def from_dict(cls, record: Mapping[str, Any]) -> "DocumentLosses":
        """Read plain JSON values, bit for bit."""
        sums = np.array(record["sums"], dtype=np.float64)
        return cls(record["measure"], sums, np.array(record["tokens"], dtype=np.int64))

    @classmethod
    def of_scores(cls, scores: Sequence[float], sign: int = 1) -> "DocumentLosses":
        """Return one number per example, such as 1 for a right answer; scores with the sign -1 are losses."""
        return cls("score", sign * np.array(scores, dtype=np.float64), np.ones(len(scores), dtype=np.int64))

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


@dataclass(frozen=True)
class TaskOutcome:
    """One task: the loss of every target, and whether the answer was right (None where it was not asked for)."""

    losses: DocumentLosses
    right: list[bool] | None
    reproduced: list[bool]  # whether the most likely tokens are the target, which needs no generation

    @property
    def accuracy(self) -> float | None:
        return None if not self.right else sum(self.right) / len(self.right)


@dataclass(frozen=True)
class Outcome:
    """One model on one share of the data."""

    corpora: Mapping[str, list[DocumentLosses]]  # one per part of a mixture
    tasks: Mapping[str, TaskOutcome]
    # Scores of the examples of tasks of lm-evaluation-harness, which has its own, whatever the share.
    harness: Mapping[str, list[float]] = field(default_factory=dict)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Join the outcomes of several shares of the data, in their order."""
    first = outcomes[0]
    return Outcome(
        {
            name: [
                _together(parts)
                for parts in zip(*(outcome.corpora[name] for outcome in outcomes), strict=True)
            ]
            for name in first.corpora
        },
        {
            name: TaskOutcome(
                _together([outcome.tasks[name].losses for outcome in outcomes]),
                None
                if any(outcome.tasks[name].right is None for outcome in outcomes)
                else [right for outcome in outcomes for right in outcome.tasks[name].right or []],
                [given for outcome in outcomes for given in outcome.tasks[name].reproduced],
            )
            for name in first.tasks
        },
    )


def _together(parts: Sequence[DocumentLosses]) -> DocumentLosses:
    return DocumentLosses(
        parts[0].measure,
        np.concatenate([part.sums for part in parts]),
        np.concatenate([part.tokens for part in parts]),
    )
