"""Advice from a study: the findings that are clear over its seeds, turned into what to change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...measures.intervals import Interval
from ..claims import causes, intervention, rank, remedies
from ..claims.every_claim import analyse_all
from ..claims.shared.claim import ALPHA, SUPPORTED, Finding
from ..claims.shared.equal_score import below_score
from ..claims.shared.strata import finished
from ..claims.shared.words import points_said, said, seeds_said
from ..tables.results import Results
from .advice import Advice
from .steps import COMPARE_FIRST, DOWN_INSTEAD

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


def advise_study(results: Results) -> tuple[list[Advice], list[str]]:
    """Return advice and notes, only from effects whose interval over seeds excludes zero."""
    names = ["rank", "causes", "remedies"]
    findings = {finding.name: finding for finding in analyse_all(results, names)}
    compared = _rows(findings["remedies"], remedies.TABLE)
    (swept,) = analyse_all(results, ["intervention"])
    advice = [
        *_on_rank(findings["rank"]),
        *_on_remedies(compared, _rows(swept, intervention.TABLE)),
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
    trends = _rows(finding, rank.TRENDS)
    for valley in _rows(finding, rank.VALLEYS):
        alike = [row for row in trends if all(row[key] == valley[key] for key in ("base", "task", "rule"))]
        by_measure = {row["measure"]: row for row in alike}
        loss, count = (by_measure.get(rank.MEASURES[name]) for name in ("loss_change", "per_100"))
        where = f"{valley['base']} on {valley['task']}, {valley['rule']}"
        support = (
            []
            if count is None or not _per_doubling_of(count).is_clear
            else [_per_doubling("intruders per 100 vectors", count)]
        )
        if valley["rank"] is not None and _number(valley["low"]) > 0:
            depth = said(_interval(valley, "depth", "low", "high"), 3)
            evidence = [
                f"{where}: there the loss is {depth} nats below that at either end of the ranks",
                *support,
            ]
            advice.append(Advice("rank", f"rank {valley['rank']:g} forgets least", evidence))
        elif loss is not None and _per_doubling_of(loss).is_clear:
            direction = "higher" if loss["per_doubling"] < 0 else "lower"
            evidence = [
                f"{where}, ranks {loss['ranks']}: {_per_doubling('pre-training loss change', loss)}",
                *support,
            ]
            advice.append(Advice("rank", f"a {direction} rank forgets less", evidence))
    return advice


def _on_remedies(rows: Sequence[Mapping[str, Any]], swept: Sequence[Mapping[str, Any]]) -> list[Advice]:
    """Advise, for each kind of remedy on each base and task, the remedy that clearly saves most.

    ``swept`` are the measures of the interventions by scale, of which the gain over interpolation counts here.
    """
    best: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["base"], row["task"], row["kind"])
        if row["kind"] in _NOT_REMEDIES or not _number(row["saved_low"]) > 0:
            continue
        if key not in best or row["saved"] > best[key]["saved"]:
            best[key] = row
    advice = []
    for (base, task, kind), row in best.items():
        plain = next(
            candidate["remedy"]
            for candidate in rows
            if (candidate["base"], candidate["task"], candidate["kind"]) == (base, task, "baseline")
        )
        saved = said(_interval(row, "saved", "saved_low", "saved_high"), 3)
        cost = _interval(row, "points_lost", "lost_low", "lost_high")
        evidence = [
            (
                f"{base} on {task}: it saves {saved} nats of forgetting against {plain} and {points_said(cost)} "
                f"({seeds_said(row['seeds'])})"
            )
        ]
        control = _control_beside(row, rows)
        if control is not None:
            evidence.append(control)
        change = row["remedy"]
        if cost.is_above_zero:
            change += f", where {cost.estimate:.1f} points of task score are worth it"
        gain = _gain_beside(row, plain, swept)
        if gain is not None:
            evidence.append(f"gain over interpolation at equal task loss: {said(gain, 3)} nats per token")
        if kind == remedies.AFTERWARDS and (gain is None or not gain.is_above_zero):
            change = DOWN_INSTEAD if gain is not None and gain.is_below_zero else COMPARE_FIRST
        advice.append(Advice(_TOPICS.get(kind, kind), change, evidence))
    return advice


def _control_beside(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Report what the norm-matched shrink saves at the same scale as scaled intruders."""
    if row["kind"] != remedies.AFTERWARDS:
        return None
    shrink = (row["base"], row["task"], "shrink", row["scale"])
    for other in rows:
        if (other["base"], other["task"], other["control"], other["scale"]) == shrink:
            saved = said(_interval(other, "saved", "saved_low", "saved_high"), 3)
            return f"the norm-matched shrink of the complete update saves {saved}: compare before you choose"
    return None


def _gain_beside(row: Mapping[str, Any], plain: str, swept: Sequence[Mapping[str, Any]]) -> Interval | None:
    """Return the mean gain of scaled intruders over interpolation in the plain setting; None if unmeasured."""
    keys = ("base", "task", "control", "measure", "scale")
    wanted = (row["base"], row["task"], remedies.INTRUDERS, "gain", row["scale"])
    for measured in swept:
        is_wanted = measured["setting"].removesuffix(intervention.OF_TOP) == plain and wanted == tuple(
            measured[key] for key in keys
        )
        if row["control"] == remedies.INTRUDERS and is_wanted:
            return _interval(measured, "change", "low", "high")
    return None


def _on_causes(finding: Finding) -> list[Advice]:
    """Advise on learning rate, alpha, data size and weight decay if they clearly change the intruder count.

    As in the verdict, that is among all settings that were compared (Holm).
    """
    topics = {"lr": "learning rate", "alpha_value": "alpha rule", "weight_decay": "weight decay"}
    topics["max_train_samples"] = "data"
    advice = []
    for row in _rows(finding, causes.TABLE):
        change = _interval(row, "change_per_100_vectors", "low", "high")
        if row["varied"] not in topics or not change.is_clear or row["p_among_all"] >= ALPHA:
            continue
        direction = "lower" if change.estimate > 0 else "higher"
        what = "fewer" if direction == "lower" and row["varied"] == "max_train_samples" else direction
        evidence = [
            (
                f"{row['base']} on {row['task']}: from {row['from']} to {row['to']}, all else equal, intruders "
                f"per 100 vectors change by {said(change)} ({seeds_said(row['seeds'])})"
            )
        ]
        advice.append(Advice(topics[row["varied"]], f"{what} {row['cause']} for fewer intruders", evidence))
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


def _rows(finding: Finding, table: str) -> list[dict[str, Any]]:
    frame = finding.tables.get(table)
    return [] if frame is None else [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _interval(row: Mapping[str, Any], estimate: str, low: str, high: str) -> Interval:
    return Interval(_number(row[estimate]), _number(row[low]), _number(row[high]))


def _per_doubling_of(row: Mapping[str, Any]) -> Interval:
    return _interval(row, "per_doubling", "low", "high")


def _per_doubling(name: str, row: Mapping[str, Any]) -> str:
    change = said(_per_doubling_of(row), 3)
    return f"{name} changes by {change} a doubling of the rank ({seeds_said(row['seeds'])})"


def _number(value: object) -> float:
    return math.nan if value is None else float(str(value))
