"""What one evaluation measured: losses of documents, and of the examples of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .losses import DocumentLosses


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
    if len(outcomes) == 1:
        return outcomes[0]
    first = outcomes[0]
    return Outcome(
        {
            name: [
                _together([outcome.corpora[name][part] for outcome in outcomes]) for part in range(len(parts))
            ]
            for name, parts in first.corpora.items()
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
