"""The result of a comparison of remedies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...measures.intervals import Interval
from ..bench.point import Point
from ..bench.yardstick import FourParts, Items


@dataclass(frozen=True)
class ComparedRemedy:
    """One row of the table."""

    name: str
    source: str
    reason: str | None = None  # why it was not measured to the end
    chosen: Point | None = None  # on the data that are reported
    is_over_allowance: bool = False  # no strength kept the task loss within the allowance
    tried: list[Point] = field(default_factory=list)  # on the data that strengths were chosen by
    dropped: list[float] = field(default_factory=list)  # strengths clearly under the curve in the first pass
    idle: list[float] = field(default_factory=list)  # strengths that change nothing in this model
    controls: list[Point] = field(default_factory=list)
    no_control: Mapping[str, str] = field(default_factory=dict)  # why there is no such control
    parts: FourParts | None = None
    items: Items | None = None


@dataclass(frozen=True)
class RemedyComparison:
    """Every remedy on one model, on the same documents and examples.

    Args:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      tuned_kind: "adapter" or "checkpoint".
      target: the task that the model was tuned for.
      settings: the settings that were used.
      allow: the allowed rise of the task loss, in nats per token.
      level: the level of every interval.
      counts: number of documents and examples, by share.
      base_point: the measures of the base.
      tuned_point: the measures of the tuned model.
      curve: interpolation on the data that are reported.
      forgotten: the forgetting, L_tuned - L_base.
      remedies: one row per remedy.
      others: tuned tensors that an audit does not examine.

    Example:
      ``[remedy.name for remedy in comparison.better]``
    """

    base: str
    tuned: str
    tuned_kind: str  # "adapter" or "checkpoint"
    target: str  # the task that the model was tuned for
    settings: Mapping[str, Any]
    allow: float  # nats per token
    level: float  # of every interval
    counts: Mapping[str, Mapping[str, int]]  # of documents and examples, by share
    base_point: Point
    tuned_point: Point
    curve: list[Point]  # interpolation on the data that are reported
    forgotten: Interval  # L_tuned - L_base
    remedies: list[ComparedRemedy]
    others: list[str] = field(default_factory=list)  # tuned tensors that an audit does not examine

    @property
    def better(self) -> list[ComparedRemedy]:
        """The remedies that are clearly better than interpolation at equal task loss, the best first."""
        helpful = [
            remedy
            for remedy in self.remedies
            if remedy.chosen and remedy.chosen.gain and remedy.chosen.gain.low > 0
        ]
        return sorted(helpful, key=lambda remedy: -remedy.chosen.gain.estimate)  # type: ignore[union-attr]

    @property
    def beyond_dose(self) -> list[ComparedRemedy]:
        """Those that also clearly beat both shrink controls."""
        return [
            remedy for remedy in self.better if _beats(remedy, "shrink") and _beats(remedy, "shrink-output")
        ]


def _beats(remedy: ComparedRemedy, control: str) -> bool:
    margins = [point.margin for point in remedy.controls if point.control == control]
    return bool(margins) and all(margin is not None and margin.low > 0 for margin in margins)
