"""The result of an intervention at several scales, and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..audits.result.audit_result import Audit
from ..measures.corpus_loss import CorpusLoss, mixed_difference
from ..measures.intervals import NOTHING, Interval, paired_difference
from ..measures.losses import DocumentLosses
from ..measures.task_score import TaskScore
from ..mitigation.remedies.remedy_table import CONTROL_NAMES, INTRUDERS, SHRINK_OUTPUT
from ..system.plain_values import from_plain, plain
from ..system.result_protocol import JsonResult
from .point import Point

CHANGE = "+.3f"  # the format of a change in nats per token


@dataclass(frozen=True)
class Intervention:
    """The measures of the model under one intervention."""

    control: str  # "intruders", or the control in their place
    scale: float
    losses: dict[str, CorpusLoss]  # by corpus, with the change against the tuned model
    scores: dict[str, TaskScore]  # by task
    # Frobenius norm of the updates of all matrices with intruders, 1 being the tuned model's.
    update_norm: float = 1.0
    left_alone: int = 0  # matrices with intruders of which there is no such control
    gain: Interval | None = None  # over interpolation at equal task loss; None without its curve
    gain_against_intruders: Interval | None = None  # of a control: minus that of the intruders at its scale


@dataclass(frozen=True)
class Trade:
    """The difference of two interventions: negative losses and positive accuracies are better."""

    losses: dict[str, Interval]  # nats a token, by corpus
    accuracies: dict[str, Interval]  # shares, by task


def _moved(change: Interval, form: str, unit: str = "") -> str:
    """Return words such as ``falls 0.12 [0.10, 0.14]``; a change across zero is not clear and keeps its signs."""
    if not change.is_clear:
        return f"does not clearly change ({change.estimate:+{form}}{unit}{change.ends('+' + form)})"
    verb, size = ("falls", change.turned()) if change.estimate < 0 else ("rises", change)
    return f"{verb} {size.estimate:{form}}{unit}{size.ends(form)}"


def _compared(trade: Trade) -> str:
    """Compare a control with the intruders at the same scale: lower loss or higher accuracy is better."""
    better, worse = list[str](), list[str]()
    for corpus, change in trade.losses.items():
        if change.is_clear:
            (better if change.estimate < 0 else worse).append(f"loss on {corpus} {change.text(CHANGE)}")
    for task, change in trade.accuracies.items():
        if change.is_clear:
            words = f"accuracy on {task} {change.times(100).text('+.1f')} points"
            (better if change.estimate > 0 else worse).append(words)
    parts = [f"does better in {' and '.join(better)}"] if better else []
    parts += [f"does worse in {' and '.join(worse)}"] if worse else []
    return ", and ".join(parts) or "does as well"


@dataclass(frozen=True)
class InterventionSweep(JsonResult):
    """Interventions over scales and controls, all on the same documents and examples.

    Attributes:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      audit: the audit that found the intruders.
      seed: seed of the bootstrap, samples and random controls.
      tuned_point: the measures of the tuned model, scale 1.
      base_losses: the base's losses, by corpus.
      points: the measures of every intervention.
      curve: interpolation from base to tuned, if it is among the controls.
      which: "all" intruders of a matrix were scaled, or "top", the one with the largest singular value.

    Examples:
      ``sweep = intruders.intervene("smollm2-135m", "my-adapter", losses=losses); sweep.trade(sweep.points[-1])``
    """

    what = "an intervention with the losses of its documents"
    written_by = "intruders intervene --json"

    base: str
    tuned: str
    audit: Audit
    seed: int
    tuned_point: Intervention  # scale 1
    base_losses: dict[str, CorpusLoss] = field(repr=False)
    points: list[Intervention] = field(repr=False)
    curve: list[Point] = field(default_factory=list)  # of interpolation, where it is among the controls
    which: str = "all"  # of a matrix's intruders

    def trade(self, point: Intervention, against: Intervention | None = None) -> Trade:
        """Return paired differences of a point from another one, or from the tuned model."""
        other = against or self.tuned_point
        losses = {
            name: mixed_difference(loss.losses, other.losses[name].losses, loss.weights, seed=self.seed)
            for name, loss in point.losses.items()
        }
        accuracies = {
            name: paired_difference(
                *(DocumentLosses.of_scores(each.right) for each in (score, other.scores[name])),
                seed=self.seed,
            )
            for name, score in point.scores.items()
        }
        return Trade(losses, accuracies)

    def verdicts(self) -> list[str]:
        """Return one sentence per scale: what scaling the intruders changes, and how each control compares."""
        return [self._verdict(point) for point in self.points if point.control == INTRUDERS]

    def _verdict(self, point: Intervention) -> str:
        change, gain, matrices = self.trade(point), point.gain, self.audit.affected
        moved = [f"loss on {name} {_moved(loss, '.3f')}" for name, loss in change.losses.items()]
        for name, share in change.accuracies.items():
            moved.append(f"accuracy on {name} {_moved(share.times(100), '.1f', ' points')}")
        parts = [f"at scale {point.scale:g} {' and '.join(moved)}"]
        if gain is not None and gain.is_clear:
            side, size = ("below", gain) if gain.estimate > 0 else ("above", gain.turned())
            parts.append(f"at equal task loss this is {size.text('.3f')} {side} interpolation")
        elif gain is not None:
            parts.append(f"at equal task loss interpolation does as well ({gain.text(CHANGE)})")
        for other in self.points:
            if other.scale != point.scale or other.control == INTRUDERS:
                continue
            known = other.control in ("shrink", SHRINK_OUTPUT)
            name = CONTROL_NAMES[other.control] if known else f"the control {other.control}"
            if 0 < matrices <= other.left_alone:  # a model without it compares with nothing
                parts.append(f"no matrix has {name}")
                continue
            alone = f" ({other.left_alone:,} of {matrices:,} matrices have none)" if other.left_alone else ""
            parts.append(f"{name} {_compared(self.trade(other, point))}{alone}")
        return "; ".join(parts)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: every point with its intervals, the verdicts, and the values behind them."""
        return {
            **self.head(),
            "base": {
                "source": self.base,
                "losses": {n: loss.loss.as_dict() for n, loss in self.base_losses.items()},
            },
            "tuned": {"source": self.tuned, **_measures(self.tuned_point)},
            "settings": {
                "k": self.audit.k,
                "epsilon": self.audit.epsilon,
                "seed": self.seed,
                "which": self.which,
            },
            "intruders": self.audit.intruders,
            "interpolation": [
                {"alpha": at.strength, "loss": at.loss.estimate, "task_loss": at.task_loss.estimate}
                for at in self.curve
            ],
            "points": [
                {
                    **{
                        name: getattr(point, name)
                        for name in ("control", "scale", "update_norm", "left_alone")
                    },
                    **_measures(point),
                    "gain_at_equal_task_loss": plain(point.gain, short=True),
                    "change": plain(self.trade(point), short=True),
                }
                for point in self.points
            ],
            "verdicts": self.verdicts(),
            "values": {
                "audit": self.audit.to_document(),
                "base": plain(self.base_losses),
                "tuned": plain(self.tuned_point),
                "points": plain(self.points),
                "curve": plain(self.curve),
            },
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "InterventionSweep":
        values, settings = document["values"], document["settings"]
        return cls(
            base=document["base"]["source"],
            tuned=document["tuned"]["source"],
            audit=Audit.from_document(values["audit"]),
            seed=settings["seed"],
            tuned_point=from_plain(Intervention, values["tuned"]),
            base_losses=from_plain(dict[str, CorpusLoss], values["base"]),
            points=from_plain(list[Intervention], values["points"]),
            curve=from_plain(list[Point], values["curve"]),
            which=settings["which"],
        )


def _measures(point: Intervention) -> dict[str, Any]:
    return {
        "losses": {name: loss.loss.as_dict() for name, loss in point.losses.items()},
        "accuracies": {name: score.accuracy.as_dict() for name, score in point.scores.items()},
    }


def intervention_rows(sweep: InterventionSweep) -> list[dict[str, Any]]:
    """Return one row per point and measure, the tuned model first; controls also against intruders at their scale."""
    of_intruders = {point.scale: point for point in sweep.points if point.control == INTRUDERS}
    rows = []
    for point in [sweep.tuned_point, *sweep.points]:
        is_tuned = point is sweep.tuned_point
        other = None if is_tuned or point.control == INTRUDERS else of_intruders.get(point.scale)
        change = sweep.trade(point)
        against = Trade({}, {}) if other is None else sweep.trade(point, other)
        of_losses = {name: loss.loss.estimate for name, loss in point.losses.items()}
        of_scores = {name: score.accuracy.estimate for name, score in point.scores.items()}
        measures: list[tuple[str, dict[str, float | None], dict[str, Interval], dict[str, Interval]]] = [
            ("loss", {**of_losses}, change.losses, against.losses),
            ("accuracy", {**of_scores}, change.accuracies, against.accuracies),
        ]
        if sweep.curve:
            task = next(iter(point.scores))
            gain = Interval(0.0, 0.0, 0.0) if is_tuned else point.gain  # the tuned model is the curve's end
            of_gain = {} if point.gain_against_intruders is None else {task: point.gain_against_intruders}
            value = {task: None if gain is None else gain.estimate}
            measures.append(("gain", value, {task: gain or NOTHING}, of_gain))
        rows += [
            {
                "which": sweep.which,
                "control": point.control,
                "scale": point.scale,
                "measure": measure,
                "on": on,
                "value": value,
                **changes[on].json_cells("change"),
                **compared.get(on, NOTHING).json_cells("against_intruders"),
                "base_value": sweep.base_losses[on].loss.estimate
                if measure == "loss" and on in sweep.base_losses
                else None,
            }
            for measure, values, changes, compared in measures
            for on, value in values.items()
        ]
    return rows
