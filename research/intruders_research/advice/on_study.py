"""Advice from a study: the findings that are clear over its seeds, turned into what to change."""

from __future__ import annotations

import math
from collections.abc import Sequence

from intruders.measures.intervals import Interval
from intruders.mitigation.remedies.remedy_table import INTRUDERS
from intruders.studies.results import Results

from ..claims import causes, intervention, rank, remedies
from ..claims.every_claim import analyse_all
from ..claims.shared.claim import ALPHA, SUPPORTED, Finding, Where
from ..claims.shared.equal_score import below_score
from ..claims.shared.strata import finished
from ..claims.shared.words import points_said, said, seeds_said
from .advised import Advice
from .study_rows import CauseRow, RemedyRow, SweptRow, TrendRow, ValleyRow, rows_of

# The topic of each kind of remedy.
_TOPICS = {
    "higher rank": "rank",
    "rank stabilization": "alpha rule",
    "lower learning rate": "learning rate",
    remedies.AFTERWARDS: "mitigation",
    "B alone trained": "method",
    "initialization": "method",
}
_NOT_REMEDIES = ("baseline", remedies.CONTROL, remedies.REFERENCE)
# The models of a study are many: the commands name none.
_DOWN_INSTEAD = (
    "turn the complete update down instead of its intruders: a share of it has a lower loss on text at the same task "
    "loss; intruders scale BASE TUNED --task TASK --loss-on CORPUS --out DIR finds the share and writes the model"
)
_COMPARE_FIRST = (
    "compare before you scale intruders: whether that beats a share of the complete update at equal task loss is not "
    "clear here; intruders remedies BASE TUNED --task TASK --loss-on CORPUS measures it"
)


def advise_study(results: Results) -> tuple[list[Advice], list[str]]:
    """Return advice and notes, only from effects whose interval over seeds excludes zero."""
    names = ["rank", "causes", "remedies"]
    findings = {finding.name: finding for finding in analyse_all(results, names)}
    compared = rows_of(RemedyRow.of, findings["remedies"], remedies.TABLE)
    (swept,) = analyse_all(results, ["intervention"])
    advice = [
        *_on_rank(findings["rank"]),
        *_on_remedies(compared, rows_of(SweptRow.of, swept, intervention.TABLE)),
        *_on_causes(findings["causes"]),
        *_on_scale(results),
    ]
    notes = [f"{name}: {findings[name].verdict}" for name in names if findings[name].decision != SUPPORTED]
    if int(results.runs["seed"].nunique()) == 1:
        notes.insert(0, "one seed: no comparison of settings has an interval, so that none gives advice")
    if results.failed:
        notes.append(f"{len(results.failed)} runs failed and say nothing here")
    return advice, notes


def _on_rank(finding: Finding) -> list[Advice]:
    """Advise the rank of least loss if there is one, else the direction in which the loss clearly falls."""
    advice = []
    trends = rows_of(TrendRow.of, finding, rank.TRENDS)
    for valley in rows_of(ValleyRow.of, finding, rank.VALLEYS):
        by_measure = {row.measure: row for row in trends if row.on == valley.on}
        loss, count = (by_measure.get(rank.MEASURES[name]) for name in ("loss_change", "per_100"))
        support = (
            []
            if count is None or not count.per_doubling.is_clear
            else [_per_doubling("intruders per 100 vectors", count)]
        )
        if valley.depth.is_above_zero:
            depth = said(valley.depth, 3)
            where = f"{valley.on.label}: there the loss is {depth} nats below that at either end of the ranks"
            advice.append(Advice("rank", f"rank {valley.rank:g} forgets least", [where, *support]))
        elif loss is not None and loss.per_doubling.is_clear:
            direction = "higher" if loss.per_doubling.estimate < 0 else "lower"
            evidence = [
                f"{valley.on.label}, ranks {loss.ranks}: {_per_doubling('pre-training loss change', loss)}",
                *support,
            ]
            advice.append(Advice("rank", f"a {direction} rank forgets less", evidence))
    return advice


def _per_doubling(name: str, row: TrendRow) -> str:
    change = said(row.per_doubling, 3)
    return f"{name} changes by {change} a doubling of the rank ({seeds_said(row.seeds)})"


def _on_remedies(rows: Sequence[RemedyRow], swept: Sequence[SweptRow]) -> list[Advice]:
    """Advise, for each kind of remedy on each base and task, the remedy that clearly saves most.

    ``swept`` are the measures of the interventions by scale, of which the gain over interpolation counts here.
    """
    best: dict[tuple[Where, str], RemedyRow] = {}
    for row in rows:
        key = (row.on, row.kind)
        if row.kind in _NOT_REMEDIES or not row.saved.is_above_zero:
            continue
        if key not in best or row.saved.estimate > best[key].saved.estimate:
            best[key] = row
    advice = []
    for (on, kind), row in best.items():
        plain = next(
            candidate.remedy for candidate in rows if (candidate.on, candidate.kind) == (on, "baseline")
        )
        evidence = [
            (
                f"{on.label}: it saves {said(row.saved, 3)} nats of forgetting against {plain} and "
                f"{points_said(row.cost)} ({seeds_said(row.seeds)})"
            )
        ]
        control = _control_beside(row, rows)
        if control is not None:
            evidence.append(control)
        change = row.remedy
        if row.cost.is_above_zero:
            change += f", where {row.cost.estimate:.1f} points of task score are worth it"
        gain = _gain_beside(row, plain, swept)
        if gain is not None:
            evidence.append(f"gain over interpolation at equal task loss: {said(gain, 3)} nats per token")
        if kind == remedies.AFTERWARDS and (gain is None or not gain.is_above_zero):
            change = _DOWN_INSTEAD if gain is not None and gain.is_below_zero else _COMPARE_FIRST
        advice.append(Advice(_TOPICS.get(kind, kind), change, evidence))
    return advice


def _control_beside(row: RemedyRow, rows: Sequence[RemedyRow]) -> str | None:
    """Report what the norm-matched shrink saves at the same scale as scaled intruders."""
    if row.kind != remedies.AFTERWARDS:
        return None
    for other in rows:
        if (other.on, other.control, other.scale) == (row.on, "shrink", row.scale):
            saved = said(other.saved, 3)
            return f"the norm-matched shrink of the complete update saves {saved}: compare before you choose"
    return None


def _gain_beside(row: RemedyRow, plain: str, swept: Sequence[SweptRow]) -> Interval | None:
    """Return the mean gain of scaled intruders over interpolation in the plain setting; None if unmeasured."""
    if row.control != INTRUDERS:
        return None
    wanted = (row.on, INTRUDERS, "gain", row.scale)
    for measured in swept:
        is_plain = measured.setting.removesuffix(intervention.OF_TOP) == plain
        if is_plain and (measured.on, measured.control, measured.measure, measured.scale) == wanted:
            return measured.change
    return None


def _on_causes(finding: Finding) -> list[Advice]:
    """Advise on learning rate, alpha, data size and weight decay if they clearly change the intruder count.

    As in the verdict, that is among all settings that were compared (Holm).
    """
    topics = {"lr": "learning rate", "alpha_value": "alpha rule", "weight_decay": "weight decay"}
    topics["max_train_samples"] = "data"
    advice = []
    for row in rows_of(CauseRow.of, finding, causes.TABLE):
        if row.varied not in topics or not row.change.is_clear or row.p_among_all >= ALPHA:
            continue
        direction = "lower" if row.change.estimate > 0 else "higher"
        what = "fewer" if direction == "lower" and row.varied == "max_train_samples" else direction
        evidence = [
            (
                f"{row.on.label}: from {row.start} to {row.end}, all else equal, intruders per 100 vectors change by "
                f"{said(row.change)} ({seeds_said(row.seeds)})"
            )
        ]
        advice.append(Advice(topics[row.varied], f"{what} {row.cause} for fewer intruders", evidence))
    return advice


def _on_scale(results: Results) -> list[Advice]:
    """Advise a smaller update scale for settings above the largest one without intruders.

    Runs that did not reach their score are left out.
    """
    runs = finished(results.runs)
    runs = runs.drop(below_score(runs).index)
    runs = runs[runs["method"] != "full"]
    advice = []
    for (base, task, setting), group in runs.groupby(["base", "task", "described"]):
        scales = group["critical_scale"].dropna()
        if len(scales) < 2 or float(scales.max()) >= 1:
            continue
        measured = ", ".join(f"{scale:.3g}" for scale in sorted(scales))
        evidence = [
            f"{base} on {task}: the largest scale without intruders was {measured} in {len(scales)} runs"
        ]
        scale = _rounded_down(float(scales.min()))
        change = f"{setting}: an adapter at {scale:g} of its scale or below has no intruders"
        advice.append(Advice("scale", change, evidence))
    return advice


def _rounded_down(scale: float) -> float:
    """Return a scale with two digits, not above what was measured, where intruders begin."""
    unit = 10.0 ** (math.floor(math.log10(scale)) - 1) if scale > 0 else 1.0
    return math.floor(scale / unit * (1 + 1e-12)) * unit
