"""Advice on one fine-tuned model, from its audit and other measurements."""

from __future__ import annotations

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..audits.result.audit_result import Audit
from ..audits.result.records import AuditedMatrix
from ..audits.scales.critical_scales_result import CriticalScales
from ..checkpoints.stored.names import module_paths
from ..linalg.rank_correlation import auc
from ..measures.intervals import Interval
from ..mitigation.remedies.remedy_table import INTRUDERS
from .advice import Advice
from .next_steps import COMPARE_FIRST, DOWN_INSTEAD, Facts, ScaledGain, at_most, scale_command

# How far apart the updates of matrices with and without intruders must lie, and how many of each it takes.
_APART, _FEWEST = 0.8, 5
# A kind of module is worth naming when it has this share of the intruders and this many times its share of the vectors.
_SHARE, _TIMES = 0.5, 2.0


@dataclass(frozen=True)
class SweepRow:
    """One measure after one intervention; numbers that were not measured are NaN."""

    control: str
    scale: float
    measure: str  # loss, accuracy or gain
    on: str  # the corpus or task
    change: Interval
    against_intruders: Interval
    which: str  # of a matrix's intruders

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> SweepRow:
        """Read a row of the study's table of interventions."""
        return cls(
            control=row["control"],
            scale=float(row["scale"]),
            measure=row["measure"],
            on=row["on"],
            change=_interval(row, "change"),
            against_intruders=_interval(row, "against_intruders"),
            which=row.get("which") or "all",
        )

    @property
    def is_below(self) -> bool:
        """Whether the change is clearly a fall."""
        return self.change.is_below_zero

    def said(self, value: Interval) -> str:
        """Say one of the row's values in its unit."""
        factor, unit, form = (100.0, " points", "+.1f") if self.measure == "accuracy" else (1.0, "", "+.3f")
        value = value.times(factor)
        return f"{value.estimate:{form}}{unit}{value.ends(form) or ' (no interval)'}"


def _interval(row: Mapping[str, Any], name: str) -> Interval:
    """Read an interval; NaN where a row has none, as that of the intruders against themselves, or no finite one."""
    read = Interval.from_cells(row, name)
    return Interval(_finite(read.estimate), _finite(read.low), _finite(read.high))


def _finite(number: float) -> float:
    return number if math.isfinite(number) else math.nan


@dataclass(frozen=True)
class Sweep:
    """The results of ``intruders intervene``."""

    rows: Sequence[SweepRow]


def advise_model(
    audit: Audit, scale: CriticalScales | None = None, sweep: Sweep | None = None
) -> tuple[list[Advice], list[str]]:
    """Return advice and notes on one tuned model, from the numbers that were measured."""
    where = f"{audit.vectors:,} leading vectors of {len(audit.matrices):,} matrices"
    if audit.intruders == 0:
        notes = [f"no intruders among the {where} (k = {audit.k}, epsilon = {audit.epsilon:g})"]
        if scale is not None and scale.is_at_search_end:
            notes.append(scale.up_to_search_end())
        elif scale is not None and math.isfinite(scale.largest):
            beyond = f"more than {scale.target:,} of them" if scale.target else "the first"
            notes.append(f"{beyond} would appear above {scale.largest:.3g} times this update")
        return [], notes
    notes = [
        (
            f"{audit.intruders:,} intruders among the {where}, with {100 * audit.intruder_energy_share:.1f} % "
            "of their energy"
        )
    ]
    advice: list[Advice] = []
    if sweep is not None:
        mitigation, more = _on_mitigation(audit, sweep)
        advice += mitigation
        notes += more
    if scale is not None:
        advice += _on_scale(audit, scale)
    advice += _on_size(audit)
    advice += _on_modules(audit)
    return advice, notes


def _on_scale(audit: Audit, scale: CriticalScales) -> list[Advice]:
    if not (math.isfinite(scale.largest) and 0 < scale.largest < 1):
        return []
    evidence = [
        (
            f"measured: {audit.intruders:,} intruders at the scale it has, {scale.intruders_at_largest:,} at "
            f"{scale.largest:.3g} times it"
        )
    ]
    if math.isfinite(scale.predicted):
        evidence.append(
            f"the base's spectrum and the update's largest singular value predict the first at "
            f"{scale.predicted:.3g} times it"
        )
    how = (
        "go only so far along W0 + s (W - W0)"
        if audit.matrices[0].rank is None
        else "scale the adapter, or its alpha, by that"
    )
    change = (
        f"an update of at most {scale.largest:.3g} times this one has {at_most(scale.target)}: {how}; what that does "
        "to forgetting and to the task score is yours to measure"
    )
    return [Advice("scale", change, evidence)]


def scaled_gain(sweep: Sweep) -> ScaledGain | None:
    """Return the gain of the best intruder scale over interpolation; None if it was not measured."""
    best = _best_scale(sweep)
    row = None if best is None else _gain_at(sweep, best.scale)
    if best is None or row is None:
        return None
    # A loss of interpolation minus one of the remedy: positive is better.
    return ScaledGain(best.scale, row.change, row.which)


@dataclass(frozen=True)
class _BestScale:
    """The scale of the intruders with the largest clear fall of a loss, and the accuracies there."""

    scale: float
    loss: SweepRow
    scores: list[SweepRow]


def _best_scale(sweep: Sweep) -> _BestScale | None:
    """Return the scale with the largest clear fall of a loss and no clear fall of an accuracy."""
    best: _BestScale | None = None
    for scale, rows in _intruders_by_scale(sweep).items():
        losses = [row for row in rows if row.measure == "loss" and row.is_below]
        scores = [row for row in rows if row.measure == "accuracy"]
        if any(row.is_below for row in scores) or not losses:
            continue
        loss = min(losses, key=lambda row: row.change.estimate)
        if best is None or loss.change.estimate < best.loss.change.estimate:
            best = _BestScale(scale, loss, scores)
    return best


def _intruders_by_scale(sweep: Sweep) -> dict[float, list[SweepRow]]:
    scales: dict[float, list[SweepRow]] = defaultdict(list)
    for row in sweep.rows:
        if row.control == INTRUDERS and row.scale < 1:
            scales[row.scale].append(row)
    return scales


def _on_mitigation(audit: Audit, sweep: Sweep) -> tuple[list[Advice], list[str]]:
    """Advise on scaled intruders: better than interpolation, worse, or still to be compared."""
    best = _best_scale(sweep)
    if best is None:
        tried = ", ".join(f"{scale:g}" for scale in sorted(_intruders_by_scale(sweep)))
        return [], [
            f"no scale of the intruders that was tried ({tried or 'none'}) clearly lowers a loss at no clear cost"
        ]
    scale, loss = best.scale, best.loss
    evidence = [
        f"loss on {loss.on} with intruders scaled to {scale:g}: {loss.said(loss.change)}, paired by document"
    ]
    evidence += [
        f"accuracy on {row.on} by {row.said(row.change)}, which is not clearly a loss" for row in best.scores
    ]
    for row in sweep.rows:
        if row.control == INTRUDERS or row.scale != scale or row.measure != "loss":
            continue
        if row.on != loss.on or math.isnan(row.against_intruders.estimate):
            continue
        against = row.said(row.against_intruders)
        if row.against_intruders.is_above_zero:
            evidence.append(f"the control {row.control} does clearly worse, by {against}")
        else:
            evidence.append(f"the control {row.control} does as well or better: {against} against it")
    change = COMPARE_FIRST
    gain = _gain_at(sweep, scale)
    if gain is not None:
        evidence.append(f"gain over interpolation at equal task loss: {gain.said(gain.change)}")
        if gain.is_below:
            change = DOWN_INSTEAD
        elif gain.change.is_above_zero:
            command = scale_command(Facts.of(audit), scale, gain.which)
            change = f"scale the intruders to {scale:g}: {shlex.join(command)}"
    return [Advice("mitigation", change, evidence)], []


def _gain_at(sweep: Sweep, scale: float) -> SweepRow | None:
    """Return the row that compares scaled intruders with interpolation; None if it was not measured."""
    for row in sweep.rows:
        if (row.control, row.measure, row.scale) == (INTRUDERS, "gain", scale):
            return None if math.isnan(row.change.estimate) else row
    return None


def _on_size(audit: Audit) -> list[Advice]:
    """Advise on the update's size if it separates the matrices with intruders from those without."""
    sizes = {True: [], False: []}  # type: dict[bool, list[float]]
    for matrix in audit.matrices:
        size = _relative_size(matrix)
        if size is not None:
            sizes[matrix.intruders > 0].append(size)
    if min(len(sizes[True]), len(sizes[False])) < _FEWEST or auc(sizes[True], sizes[False]) < _APART:
        return []
    evidence = [
        (
            f"the update's largest singular value is {median(sizes[True]):.2f} times the base's last examined "
            f"singular value in the {len(sizes[True])} matrices with intruders (median), "
            f"{median(sizes[False]):.2f} times in the {len(sizes[False])} without"
        ),
        (
            f"in {100 * auc(sizes[True], sizes[False]):.0f} % of pairs of one matrix with intruders and one "
            "without, the one with intruders has the larger update"
        ),
    ]
    return [
        Advice(
            "size of the update",
            "if the model forgot, train with a smaller one: a third of the learning rate, or a lower alpha",
            evidence,
        )
    ]


def _on_modules(audit: Audit) -> list[Advice]:
    """Advise on a module type that has most of the intruders, well beyond its share of the vectors."""
    intruders: dict[str, int] = defaultdict(int)
    vectors: dict[str, int] = defaultdict(int)
    for module, matrix in zip(module_paths([m.name for m in audit.matrices]), audit.matrices, strict=True):
        intruders[module.kind] += matrix.intruders
        vectors[module.kind] += len(matrix.vectors)
    kind = max(intruders, key=lambda name: intruders[name])
    share, fair = intruders[kind] / audit.intruders, vectors[kind] / audit.vectors
    if intruders[kind] < 2 * _FEWEST or share < _SHARE or share < _TIMES * fair:
        return []
    evidence = [
        (
            f"{intruders[kind]:,} of {audit.intruders:,} intruders ({100 * share:.0f} %) are in {kind}, which "
            f"has {100 * fair:.0f} % of the vectors"
        )
    ]
    return [Advice("modules", f"begin with {kind}: a lower rate or alpha for it, or leave it out", evidence)]


def _relative_size(matrix: AuditedMatrix) -> float | None:
    """Return ||D||_2 over the base's singular value that the last examined vector has to pass."""
    at = min(len(matrix.vectors), len(matrix.base_singular_values)) - 1
    value = matrix.base_singular_values[at] if at >= 0 else 0.0
    return matrix.update.spectral / value if value > 0 else None
