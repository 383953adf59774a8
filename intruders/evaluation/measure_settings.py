"""What is measured of a model: on which text, on which tasks, under which interventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LossSettings:
    """On what, and how, losses are measured."""

    corpora: tuple[str, ...]
    max_documents: int | None
    window: int | None
    estimate: bool

    def as_dict(self) -> dict[str, Any]:
        return {
            "loss_on": list(self.corpora),
            "max_documents": self.max_documents,
            "window": self.window,
            "estimate": self.estimate,
        }


@dataclass(frozen=True)
class SweepSettings:
    """Which interventions are measured, and on how much of what the evaluation takes."""

    scales: tuple[float, ...] = (0.0, 0.5)
    controls: tuple[str, ...] = ("shrink", "random")
    max_documents: int | None = None  # the evaluation's, if None
    max_examples: int | None = None
