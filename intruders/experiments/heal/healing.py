"""The result of a healing: the doses, and what every model measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...measures.intervals import Interval

BASE, TUNED, HEALED, INTERPOLATION = "base", "tuned", "healed", "interpolation"
CURVE, MEAN_DOSE, SHUFFLED, INTRUDERS = "curve", "mean dose", "shuffled doses", "intruders scaled"
CONTROLS = (MEAN_DOSE, SHUFFLED, INTRUDERS)

# Below this rise of the loss, in nats per token, there is little to heal.
LITTLE = 0.02

# By how much the share healed may be less on a corpus that chose nothing, before it is said in words.
_GAP = 0.15


@dataclass(frozen=True)
class CorpusMeasure:
    """One corpus, on the documents that are reported."""

    loss: Interval
    forgotten: Interval  # loss minus the base's
    healed: Interval | None = None  # share of what tuning forgot; None where tuning forgot nothing clearly
    gain: Interval | None = None  # loss of interpolation at the same task loss, minus this one


@dataclass(frozen=True)
class TaskMeasure:
    """One task, on the examples that are reported."""

    loss: Interval
    rise: Interval  # loss minus the tuned model's
    accuracy: Interval | None


@dataclass(frozen=True)
class HealedPoint:
    """One model, measured."""

    name: str  # base, tuned, healed, interpolation, curve, or a control
    dose: float | None  # the one dose for all, where there is one
    corpora: Mapping[str, CorpusMeasure]
    tasks: Mapping[str, TaskMeasure]


@dataclass(frozen=True)
class Healing:
    """The doses and measures of a healing, as in ``heal.json``.

    Args:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      out: the folder of the healed model, or None.
      form: "adapter" or "checkpoint".
      per: what has a dose of its own: "matrix", "direction", "layer" or "kind".
      task: the task that is kept.
      corpus: the corpus that the doses were learned on.
      start: the interpolation that learning started from.
      step: the step of the state that is kept.
      doses: the doses of every matrix.
      elsewhere: the dose of other tuned tensors, or None.
      points: the measured models.
      learning: the measures of every state on the half that chooses.
      documents: number of documents that are reported, by corpus.
      examples: number of examples that are reported, by task.
      digests: digests of the documents, by corpus.
      settings: the settings that were used.
      intruders_before: number of intruders before healing.
      intruders_after: number of intruders after healing, or None if nothing was written.
      intruders: number of intruders before and after, by matrix.
      seconds: the time it took.
      at_bounds: number of doses at an end of their range.
      notes: facts that a person should know.

    Example:
      ``intruders.heal("smollm2-135m", "my-adapter", task="word-problems", loss_on="pydoc").healed``
    """

    base: str
    tuned: str
    out: str | None
    form: str
    per: str
    task: str  # that is kept
    corpus: str  # that the doses were learned on
    start: float  # the interpolation that learning started from
    step: int  # of the state that is kept
    doses: Mapping[str, Sequence[float]]  # by matrix; several are of the directions of its update
    elsewhere: float | None  # of other tuned tensors
    points: Sequence[HealedPoint]
    learning: Sequence[Mapping[str, Any]]  # measures on the half that chooses
    documents: Mapping[str, int]
    examples: Mapping[str, int]
    digests: Mapping[str, Sequence[str]]  # of the documents of every corpus
    settings: Mapping[str, Any]
    intruders_before: int
    intruders_after: int | None
    intruders: Mapping[str, Sequence[int | None]] = field(default_factory=dict)  # by matrix, before and after
    seconds: float = 0.0
    at_bounds: int = 0
    notes: Sequence[str] = ()

    def point(self, name: str) -> HealedPoint | None:
        """Return the first model of that name."""
        return next((point for point in self.points if point.name == name), None)

    @property
    def base_point(self) -> HealedPoint:
        """The measures of the base."""
        return self._certain(BASE)

    @property
    def tuned_point(self) -> HealedPoint:
        """The measures of the tuned model."""
        return self._certain(TUNED)

    @property
    def healed_point(self) -> HealedPoint:
        """The measures of the healed model."""
        return self._certain(HEALED)

    @property
    def healed(self) -> float | None:
        """The healed share of the forgetting on the corpus chosen on; None if little was forgotten."""
        share = self.healed_point.corpora[self.corpus].healed
        return None if share is None else share.estimate

    def gaps(self) -> list[str]:
        """Name the corpora on which clearly less was healed than on the one that the doses were learned on."""
        own = self.healed
        if own is None:
            return []
        return [
            f"{share.estimate:.0%} healed on {name}, which chose nothing, and {own:.0%} on {self.corpus}: learn on "
            f"text that is nearer to {name}, or on more of it"
            for name, measure in self.healed_point.corpora.items()
            if (share := measure.healed) is not None and name != self.corpus and own - share.estimate > _GAP
        ]

    def finished(self, **changes: Any) -> Healing:
        """Return a copy with the facts that are known after writing."""
        return replace(self, **changes)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values, from which :meth:`from_dict` makes an equal healing."""
        record: dict[str, Any] = plain_values(asdict(self))
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Healing:
        """Read a healing from the key ``healing`` of a heal.json."""
        return cls(**{**record, "points": [_point(point) for point in record["points"]]})

    def _certain(self, name: str) -> HealedPoint:
        point = self.point(name)
        assert point is not None
        return point


def _point(record: Mapping[str, Any]) -> HealedPoint:
    return HealedPoint(
        record["name"],
        record["dose"],
        {
            name: CorpusMeasure(
                *(_interval(measure[part]) for part in ("loss", "forgotten", "healed", "gain"))  # type: ignore[arg-type]
            )
            for name, measure in record["corpora"].items()
        },
        {
            name: TaskMeasure(*(_interval(measure[part]) for part in ("loss", "rise", "accuracy")))  # type: ignore[arg-type]
            for name, measure in record["tasks"].items()
        },
    )


def _interval(record: Mapping[str, Any] | None) -> Interval | None:
    if record is None:
        return None
    low, high = record["low"], record["high"]
    return Interval(
        record["estimate"],
        float("-inf") if low is None else low,
        float("inf") if high is None else high,
        record.get("n"),
        record.get("p"),
    )


def plain_values(value: Any) -> Any:
    """Return values for JSON, which has no infinity: an infinite end of an interval becomes null."""
    if isinstance(value, Mapping):
        return {name: plain_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
