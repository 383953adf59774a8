"""The result of a comparison of remedies: which one to use, with its numbers, and as JSON and a table of points."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings
from ..measures.intervals import Interval
from ..mitigation.remedies.every_remedy import known_remedies
from ..mitigation.remedies.remedy import Remedy, ScaledIntruders
from ..mitigation.remedies.remedy_table import INTRUDERS
from ..system.commands import changed_options, command_of
from ..system.files import user_path, write_together
from ..system.parquet import parquet_bytes
from ..system.plain_values import plain
from ..system.result_protocol import JsonResult, json_bytes
from .experiment_settings import HealSettings
from .point import INTERVALS, Point, rows_of_document
from .yardstick import FourParts, Items


@dataclass(frozen=True)
class ComparedRemedy:
    """One row of the table."""

    name: str
    source: str
    reason: str | None = None  # why it was not measured to the end
    chosen: Point | None = None  # on the data that are reported
    over_allowance: bool = False  # no strength kept the task loss within the allowance
    tried: list[Point] = field(default_factory=list)  # on the data that strengths were chosen by
    dropped_in_first_pass: list[float] = field(default_factory=list)  # strengths clearly under the curve
    changes_nothing: list[float] = field(default_factory=list)  # strengths
    controls: list[Point] = field(default_factory=list)
    no_control: Mapping[str, str] = field(default_factory=dict)  # why there is no such control
    parts: FourParts | None = None
    items: Items | None = None


@dataclass(frozen=True)
class RemedyComparison(JsonResult):
    """Every remedy on one model, on the same documents and examples.

    Attributes:
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

    Examples:
      ``[remedy.name for remedy in comparison.better]``
    """

    what = "a comparison of remedies"
    written_by = "intruders remedies"
    file_name: ClassVar[str] = "remedies.json"
    indent: ClassVar[int] = 2

    base: str
    tuned: str
    tuned_kind: str
    target: str
    settings: Mapping[str, Any]
    allow: float
    level: float
    counts: Mapping[str, Mapping[str, int]]
    base_point: Point
    tuned_point: Point
    curve: list[Point] = field(repr=False)
    forgotten: Interval
    remedies: list[ComparedRemedy] = field(repr=False)
    others: list[str] = field(default_factory=list)

    @property
    def better(self) -> list[ComparedRemedy]:
        """The remedies that are clearly better than interpolation at equal task loss, the best first."""
        helpful = [
            remedy
            for remedy in self.remedies
            if remedy.chosen and remedy.chosen.gain and remedy.chosen.gain.is_above_zero
        ]
        return sorted(helpful, key=lambda remedy: -remedy.chosen.gain.estimate)  # type: ignore[union-attr]

    @property
    def beyond_dose(self) -> list[ComparedRemedy]:
        """Those that also clearly beat both shrink controls."""
        return [
            remedy for remedy in self.better if _beats(remedy, "shrink") and _beats(remedy, "shrink-output")
        ]

    @property
    def winner(self) -> ComparedRemedy | None:
        """The remedy with the largest clear gain over interpolation at equal task loss, within the allowance.

        A remedy that clearly beats its dose comes before one that does not.
        """
        ranked = [*self.beyond_dose, *self.better]
        return next((remedy for remedy in ranked if not remedy.over_allowance), None)

    @property
    def _best(self) -> tuple[ComparedRemedy, Point]:
        best = self.winner or next(remedy for remedy in self.remedies if remedy.name == "interpolate")
        assert best.chosen is not None  # of interpolation, and of what is better
        return best, best.chosen

    @property
    def has_forgotten(self) -> bool:
        """Whether tuning clearly raised the loss on text."""
        return self.forgotten.is_above_zero

    def sentence(self) -> str:
        """Say which remedy to use, with its numbers, or that none is clearly better than interpolation."""
        if not self.has_forgotten:
            return (
                "Tuning did not clearly raise the loss on text "
                f"({self.forgotten.text('.3g')} nats per token), so there is nothing to heal: keep the tuned model."
            )
        best, chosen = self._best
        at = f"{best.name} at {kind_of(best.name).strength} {chosen.strength:g}"
        if self.winner is None or chosen.gain is None:
            text = f"No remedy is clearly better than turning the update down: use {at}"
            if best.over_allowance:
                text += f", though no alpha keeps the task loss within {self.allow:.3g} nats per token"
        else:
            gain = chosen.gain.text(".3g")
            text = (
                f"Use {at}: its loss is {gain} nats per token below that of interpolation at equal task loss"
            )
            if best not in self.beyond_dose and best.controls:
                text += "; the same dose without its directions is not clearly worse"
        return f"{text}.{self._accuracies(chosen)}"

    def command(self, out: str = "DIR") -> str | None:
        """Return the shell line that writes the model that :meth:`sentence` names."""
        if not self.has_forgotten:
            return None
        best, chosen = self._best
        strength = chosen.strength
        if best.name == "doses":
            return self._healing_command(out, strength)
        settings, which = self.settings, self.settings.get("which", "all")
        options: dict[str, object] = {"remedy": best.name, "strength": strength}
        if best.name == INTRUDERS:
            options = {"scale": strength, "which": None if which == "all" else which}
        if best.name == "surgery":
            options |= {"dtype": settings.get("dtype"), **self._of_task()}
        if best.name == "drop":
            options["seed"] = settings["seed"] or None
        # Adapters cannot store single entries or change full tensors.
        kind = kind_of(best.name)
        if self.tuned_kind != "checkpoint" and (
            not kind.fits_an_adapter or (kind.reach == "model" and self.others)
        ):
            options["as"] = "checkpoint"
        words = command_of("mitigate", self.base, self.tuned, **options)
        audited: dict[str, Any] = {name: settings.get(name) or () for name in FINDING_INTRUDERS}
        words += changed_options(AuditSettings(**audited), FINDING_INTRUDERS)
        return shlex.join([*words, "--out", out])

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: points with their intervals, refusals with their reasons, and the sentence."""
        return {
            **self.head(),
            "base": {"source": self.base, **plain(self.base_point, short=True)},
            "tuned": {"source": self.tuned, "kind": self.tuned_kind, **plain(self.tuned_point, short=True)},
            "target": self.target,
            "settings": dict(self.settings),
            "allow": self.allow,
            "level": self.level,
            "data": {name: dict(counts) for name, counts in self.counts.items()},
            "forgotten": self.forgotten.as_dict(),
            "curve": plain(self.curve, short=True),
            "remedies": plain(self.remedies, short=True),
            "tuned_tensors_not_audited": list(self.others),
            "better": [remedy.name for remedy in self.better],
            "beyond_dose": [remedy.name for remedy in self.beyond_dose],
            "sentence": self.sentence(),
            "command": self.command(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RemedyComparison":
        base, tuned = document["base"], document["tuned"]
        own = {
            "base": base["source"],
            "tuned": tuned["source"],
            "tuned_kind": tuned["kind"],
            "counts": document["data"],
            "base_point": base,
            "tuned_point": tuned,
            "others": document["tuned_tensors_not_audited"],
        }
        return super().from_document({**document, **own})

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point: the curve, and each remedy's tried strengths, chosen strength and controls."""
        return rows_of_document(self.to_document())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``remedies.json`` and ``remedies.parquet`` to an existing folder."""
        text, number = pa.string(), pa.float64()
        columns = {"remedy": text, "strength": number, "control": text, "share": text, "chosen": pa.bool_()}
        # An interval has its ends in two more columns.
        intervals = [f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high")]
        columns |= dict.fromkeys(["norm", "output", "accuracy", *intervals], number)
        content = parquet_bytes(pa.Table.from_pylist(self.rows(), schema=pa.schema(columns)))
        folder = user_path(path)
        document = json_bytes(self.to_document(), self.indent)
        write_together({folder / "remedies.parquet": content}, folder / self.file_name, document)

    def _accuracies(self, chosen: Point) -> str:
        """Say what the dose costs the task; empty if its score is not an accuracy."""
        own = chosen.accuracies.get(self.target)
        tuned = self.tuned_point.accuracies.get(self.target)
        if own is None or tuned is None:
            return ""
        return f" Its accuracy on {self.target} is {own:.2f}, the tuned model's {tuned:.2f}."

    def _healing_command(self, out: str, strength: float | None) -> str:
        """Return the command that learns the same doses again and writes the model at their share."""
        task = self._of_task()
        learned_on = {"task": task["task"], "loss_on": list(self.base_point.losses)}
        words = command_of("heal", self.base, self.tuned, **learned_on)
        words += changed_options(HealSettings(**self.settings.get("healing", {})))
        seed = {"seed": self.settings.get("seed") or None, "data_seed": task["data_seed"]}
        words += command_of("heal", dtype=self.settings.get("dtype"), **seed)[2:]
        if strength == 1:
            return shlex.join([*words, "--out", out])
        learned = f"{out}-doses"
        of_share = {"remedy": "doses", "doses": learned, "strength": strength, "out": out}
        share = command_of("mitigate", self.base, self.tuned, **of_share)
        return f"{shlex.join([*words, '--out', learned])} && {shlex.join(share)}"

    def _of_task(self) -> dict[str, object]:
        task = str(self.settings.get("task") or self.target)
        return {"task": task, "data_seed": self.settings.get("data_seed")}


def _beats(remedy: ComparedRemedy, control: str) -> bool:
    margins = [point.margin for point in remedy.controls if point.control == control]
    return bool(margins) and all(margin is not None and margin.is_above_zero for margin in margins)


def kind_of(name: str) -> type[Remedy]:
    return ScaledIntruders if name == INTRUDERS else known_remedies()[name]
