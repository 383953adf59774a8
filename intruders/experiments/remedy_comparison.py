"""The result of a comparison of remedies: which one to use, with its numbers, and as JSON and a table of points."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings
from ..measures.intervals import Interval
from ..mitigation.remedies.every_remedy import known_remedies
from ..mitigation.remedies.intruders import ScaledIntruders
from ..mitigation.remedies.remedy import Remedy
from ..mitigation.remedies.remedy_table import INTRUDERS
from ..models.loading_settings import Loading
from ..system.commands import changed_options, options_of
from ..system.files import user_path, write_together
from ..system.parquet import parquet_bytes
from ..system.plain_values import from_plain
from ..system.result_protocol import JsonResult, json_bytes
from ..version import __version__
from .comparison_rows import INTERVALS, rows_of_document
from .experiment_settings import HealSettings
from .point import Point
from .yardstick import FourParts, Items

SCHEMA = 1
# One row a point; an interval has its ends in two more columns.
COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("remedy", pa.string()),
    ("strength", pa.float64()),
    ("control", pa.string()),
    ("share", pa.string()),
    ("chosen", pa.bool_()),
    ("norm", pa.float64()),
    ("output", pa.float64()),
    ("accuracy", pa.float64()),
    *((f"{name}{end}", pa.float64()) for name in INTERVALS for end in ("", "_low", "_high")),
)


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

    schema = SCHEMA
    what = "a comparison of remedies"
    written_by = "intruders remedies"
    file_name: ClassVar[str] = "remedies.json"
    indent: ClassVar[int] = 2

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
    curve: list[Point] = field(repr=False)  # interpolation on the data that are reported
    forgotten: Interval  # L_tuned - L_base
    remedies: list[ComparedRemedy] = field(repr=False)
    others: list[str] = field(default_factory=list)  # tuned tensors that an audit does not examine

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
        return next((remedy for remedy in ranked if not remedy.is_over_allowance), None)

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
        best = self.winner
        if best is not None and best.chosen is not None and best.chosen.gain is not None:
            gain = best.chosen.gain.text(".3g")
            text = (
                f"Use {best.name} at {_strength(best)}: its loss is {gain} nats per token below that of interpolation "
                "at equal task loss"
            )
            if best not in self.beyond_dose and best.controls:
                text += "; the same dose without its directions is not clearly worse"
            return f"{text}.{self._accuracies(best.chosen)}"
        chosen = next((remedy for remedy in self.remedies if remedy.name == "interpolate"), None)
        if chosen is None or chosen.chosen is None:
            return "No remedy is clearly better than turning the update down."
        text = f"No remedy is clearly better than turning the update down: use interpolate at {_strength(chosen)}"
        if chosen.is_over_allowance:
            text += f", though no alpha keeps the task loss within {self.allow:.3g} nats per token"
        return f"{text}.{self._accuracies(chosen.chosen)}"

    def command(self, out: str = "DIR") -> str | None:
        """Return the shell line that writes the model that :meth:`sentence` names."""
        if not self.has_forgotten:
            return None
        best = self.winner or next((remedy for remedy in self.remedies if remedy.name == "interpolate"), None)
        if best is None or best.chosen is None or best.chosen.strength is None:
            return None
        parts = ["intruders", "mitigate", self.base, self.tuned]
        strength = f"{best.chosen.strength:g}"
        if best.name == "doses":
            return self._healing_command(out, best.chosen.strength)
        if best.name == INTRUDERS:
            parts += ["--scale", strength]
            if (which := self.settings.get("which", "all")) != "all":
                parts += ["--which", str(which)]
        else:
            parts += ["--remedy", best.name, "--strength", strength]
        if best.name == "surgery":
            parts += self._loading()
            parts += ["--task", str(self.settings.get("task") or self.target)]
            if (data_seed := self.settings.get("data_seed")) is not None:
                parts += ["--data-seed", str(data_seed)]
        if best.name == "drop" and self.settings["seed"]:
            parts += ["--seed", str(self.settings["seed"])]
        if self.tuned_kind != "checkpoint" and self._needs_a_checkpoint(best):
            parts += ["--as", "checkpoint"]
        audited: dict[str, Any] = {name: self.settings.get(name) or () for name in FINDING_INTRUDERS}
        parts += changed_options(AuditSettings(**audited), FINDING_INTRUDERS)
        return shlex.join([*parts, "--out", out])

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: points with their intervals, refusals with their reasons, and the sentence."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "base": {"source": self.base, **_point(self.base_point)},
            "tuned": {
                "source": self.tuned,
                "kind": self.tuned_kind,
                **_point(self.tuned_point),
            },
            "target": self.target,
            "settings": dict(self.settings),
            "allow": self.allow,
            "level": self.level,
            "data": {name: dict(counts) for name, counts in self.counts.items()},
            "forgotten": self.forgotten.as_dict(),
            "curve": [_point(point) for point in self.curve],
            "remedies": [_remedy(remedy) for remedy in self.remedies],
            "tuned_tensors_not_audited": list(self.others),
            "better": [remedy.name for remedy in self.better],
            "beyond_dose": [remedy.name for remedy in self.beyond_dose],
            "sentence": self.sentence(),
            "command": self.command(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RemedyComparison:
        """Make it from its document."""
        base, tuned = document["base"], document["tuned"]
        return cls(
            base=base["source"],
            tuned=tuned["source"],
            tuned_kind=tuned["kind"],
            target=document["target"],
            settings=document["settings"],
            allow=document["allow"],
            level=document["level"],
            counts=document["data"],
            base_point=from_plain(Point, base),
            tuned_point=from_plain(Point, tuned),
            curve=from_plain(list[Point], document["curve"]),
            forgotten=Interval.from_dict(document["forgotten"]),
            remedies=[_remedy_from(record) for record in document["remedies"]],
            others=document["tuned_tensors_not_audited"],
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point: the curve, and each remedy's tried strengths, chosen strength and controls."""
        return rows_of_document(self.to_document())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``remedies.json`` and ``remedies.parquet`` to an existing folder."""
        schema = pa.schema([pa.field(name, kind) for name, kind in COLUMNS])
        content = parquet_bytes(pa.Table.from_pylist(self.rows(), schema=schema))
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

    def _healing_command(self, out: str, strength: float) -> str:
        """Return the command that learns the same doses again and writes the model at their share."""
        parts = ["intruders", "heal", self.base, self.tuned]
        parts += ["--task", str(self.settings.get("task") or self.target)]
        for corpus in self.base_point.losses:
            parts += ["--loss-on", corpus]
        parts += ["--allow", f"{self.allow:g}"]
        parts += changed_options(HealSettings(**self.settings.get("healing", {})))
        parts += self._loading()
        seeds = {"seed": self.settings.get("seed") or None, "data_seed": self.settings.get("data_seed")}
        parts += options_of({name: seed for name, seed in seeds.items() if seed is not None})
        if strength == 1:
            return shlex.join([*parts, "--out", out])
        learned = f"{out}-doses"
        parts = [*parts, "--out", learned]
        share = ["intruders", "mitigate", self.base, self.tuned, "--remedy", "doses", "--doses", learned]
        return f"{shlex.join(parts)} && {shlex.join([*share, '--strength', f'{strength:g}', '--out', out])}"

    def _loading(self) -> tuple[str, ...]:
        """Return the options that load the models as they were compared."""
        return changed_options(Loading(dtype=self.settings.get("dtype", "auto")))

    def _needs_a_checkpoint(self, remedy: ComparedRemedy) -> bool:
        """Return whether a remedy needs a checkpoint: adapters cannot store single entries or change full tensors."""
        cls = known_remedies().get(remedy.name)
        if cls is None:
            return False
        return not cls.fits_an_adapter or (cls.reach == "model" and bool(self.others))


def _beats(remedy: ComparedRemedy, control: str) -> bool:
    margins = [point.margin for point in remedy.controls if point.control == control]
    return bool(margins) and all(margin is not None and margin.is_above_zero for margin in margins)


def _strength(remedy: ComparedRemedy) -> str:
    assert remedy.chosen is not None
    return f"{strength_name(remedy.name)} {remedy.chosen.strength:g}"


def _remedy(remedy: ComparedRemedy) -> dict[str, Any]:
    return {
        "name": remedy.name,
        "source": remedy.source,
        "reason": remedy.reason,
        "chosen": None if remedy.chosen is None else _point(remedy.chosen),
        "over_allowance": remedy.is_over_allowance,
        "tried": [_point(point) for point in remedy.tried],
        "dropped_in_first_pass": list(remedy.dropped),
        "changes_nothing": list(remedy.idle),
        "controls": [_point(point) for point in remedy.controls],
        "no_control": dict(remedy.no_control),
        "parts": None
        if remedy.parts is None
        else {**remedy.parts.__dict__, "harmonic_mean": remedy.parts.harmonic_mean},
        "items": None if remedy.items is None else remedy.items.as_dict(),
    }


def _remedy_from(record: Mapping[str, Any]) -> ComparedRemedy:
    """Read what :func:`_remedy` gave."""
    other_keys = {
        "is_over_allowance": "over_allowance",
        "dropped": "dropped_in_first_pass",
        "idle": "changes_nothing",
    }
    own = {name: record[key] for name, key in other_keys.items()}
    remedy: ComparedRemedy = from_plain(ComparedRemedy, {**record, **own})
    return remedy


def _point(point: Point) -> dict[str, Any]:
    return {
        key: value.as_dict()
        if isinstance(value, Interval)
        else dict(value)
        if isinstance(value, Mapping)
        else value
        for key, value in point.__dict__.items()
    }


def strength_name(name: str) -> str:
    """Return the name of that number."""
    return kind_of(name).strength


def source_of(name: str) -> str:
    """Return the paper of a remedy."""
    return kind_of(name).source


def kind_of(name: str) -> type[Remedy]:
    return ScaledIntruders if name == INTRUDERS else known_remedies()[name]
