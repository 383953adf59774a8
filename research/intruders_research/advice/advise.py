"""Advice from a study: the findings that are clear over its seeds, turned into what to change."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from intruders.errors import SettingError
from intruders.measures.intervals import Interval
from intruders.mitigation.remedies.remedy_table import INTRUDERS
from intruders.reports.terminal import Page
from intruders.studies.results import Results, load_results
from intruders.system.files import user_path
from intruders.system.plain_values import plain
from intruders.version import __version__

from ..claims import causes, intervention, rank, remedies
from ..claims.every_claim import analyse_all
from ..claims.shared.claim import ALPHA, SUPPORTED, Finding, Where
from ..claims.shared.equal_score import below_score
from ..claims.shared.statistics import interval_in
from ..claims.shared.strata import finished
from ..claims.shared.words import points_said, said, seeds_said

SCHEMA = 1


@dataclass(frozen=True)
class Advice:
    """One thing to change, and why."""

    topic: str  # rank, alpha, scale, mitigation, ...
    change: str
    evidence: list[str]


@dataclass(frozen=True)
class Advised:
    """All advice on one study; empty if no number calls for a change."""

    source: str
    advice: list[Advice]
    notes: list[str] = field(default_factory=list)  # what was looked at and gave no advice

    def to_document(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {"schema": SCHEMA, "intruders_version": __version__, **plain(self)}


Row = dict[Any, Any]  # of a finding's table, by column

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


def advise(study: str | os.PathLike[str]) -> Advised:
    """Suggest what to change, with evidence that is clear over the study's seeds.

    Raises:
      SettingError: the study has no runs.
      ResultFileError: it is not the folder of a study, or a saved result is broken.
    """
    path = user_path(os.fspath(study))
    results = load_results(path)
    if results.runs.empty:
        raise SettingError(f"the study in '{path}' has no runs yet; run it with intruders study")
    return Advised(str(path), *advise_study(results))


def advise_study(results: Results) -> tuple[list[Advice], list[str]]:
    """Return advice and notes, only from effects whose interval over seeds excludes zero."""
    names = ["rank", "causes", "remedies"]
    findings = {finding.name: finding for finding in analyse_all(results, [*names, "intervention"])}
    swept = _rows(findings["intervention"], intervention.TABLE)
    advice = [
        *_on_rank(findings["rank"]),
        *_on_remedies(_rows(findings["remedies"], remedies.TABLE), swept),
        *_on_causes(findings["causes"]),
        *_on_scale(results),
    ]
    notes = [f"{name}: {findings[name].verdict}" for name in names if findings[name].decision != SUPPORTED]
    if int(results.runs["seed"].nunique()) == 1:
        notes.insert(0, "one seed: no comparison of settings has an interval, so that none gives advice")
    if results.failed:
        notes.append(f"{len(results.failed)} runs failed and say nothing here")
    return advice, notes


def _rows(finding: Finding, table: str) -> list[Row]:
    """Return the rows of a finding's table; none without the table."""
    frame = finding.tables.get(table)
    return [] if frame is None else frame.to_dict("records")


def _where(row: Row) -> Where:
    return Where(row["base"], row["task"], row.get("rule", ""))


def _on_rank(finding: Finding) -> list[Advice]:
    """Advise the rank of least loss if there is one, else the direction in which the loss clearly falls."""
    advice = []
    trends = {(_where(row), row["measure"]): row for row in _rows(finding, rank.TRENDS)}
    for valley in _rows(finding, rank.VALLEYS):
        on, depth = _where(valley), interval_in(valley, "depth", "low", "high")
        loss, count = (trends.get((on, rank.MEASURES[name])) for name in ("loss_change", "per_100"))
        support = [] if count is None or not _per_doubling(count).is_clear else [_change_said(count)]
        if depth.is_above_zero:
            where = (
                f"{on.label}: there the loss is {said(depth, 3)} nats below that at either end of the ranks"
            )
            advice.append(Advice("rank", f"rank {valley['rank']:g} forgets least", [where, *support]))
        elif loss is not None and _per_doubling(loss).is_clear:
            direction = "higher" if _per_doubling(loss).estimate < 0 else "lower"
            evidence = [f"{on.label}, ranks {loss['ranks']}: {_change_said(loss)}", *support]
            advice.append(Advice("rank", f"a {direction} rank forgets less", evidence))
    return advice


def _per_doubling(trend: Row) -> Interval:
    return interval_in(trend, "per_doubling", "low", "high")


def _change_said(trend: Row) -> str:
    change = said(_per_doubling(trend), 3)
    return f"{trend['measure']} changes by {change} a doubling of the rank ({seeds_said(trend['seeds'])})"


def _on_remedies(rows: Sequence[Row], swept: Sequence[Row]) -> list[Advice]:
    """Advise, for each kind of remedy on each base and task, the remedy that clearly saves most.

    ``swept`` are the measures of the interventions by scale, of which the gain over interpolation counts here.
    """
    best: dict[tuple[Where, str], Row] = {}
    for row in rows:
        key = (_where(row), row["kind"])
        if row["kind"] in _NOT_REMEDIES or not _saved(row).is_above_zero:
            continue
        if key not in best or row["saved"] > best[key]["saved"]:
            best[key] = row
    plain = {_where(row): row["remedy"] for row in reversed(rows) if row["kind"] == "baseline"}
    advice = []
    for (on, kind), row in best.items():
        cost = interval_in(row, "points_lost", "lost_low", "lost_high")
        evidence = [
            (
                f"{on.label}: it saves {said(_saved(row), 3)} nats of forgetting against {plain[on]} and "
                f"{points_said(cost)} ({seeds_said(row['seeds'])})"
            )
        ]
        control = _control_beside(row, rows)
        if control is not None:
            evidence.append(control)
        change = row["remedy"]
        if cost.is_above_zero:
            change += f", where {cost.estimate:.1f} points of task score are worth it"
        gain = _gain_beside(row, plain[on], swept)
        if gain is not None:
            evidence.append(f"gain over interpolation at equal task loss: {said(gain, 3)} nats per token")
        if kind == remedies.AFTERWARDS and (gain is None or not gain.is_above_zero):
            change = _DOWN_INSTEAD if gain is not None and gain.is_below_zero else _COMPARE_FIRST
        advice.append(Advice(_TOPICS.get(kind, kind), change, evidence))
    return advice


def _saved(remedy: Row) -> Interval:
    return interval_in(remedy, "saved")


def _control_beside(row: Row, rows: Sequence[Row]) -> str | None:
    """Report what the norm-matched shrink saves at the same scale as scaled intruders."""
    if row["kind"] != remedies.AFTERWARDS:
        return None
    for other in rows:
        if (_where(other), other["control"], other["scale"]) == (_where(row), "shrink", row["scale"]):
            saved = said(_saved(other), 3)
            return f"the norm-matched shrink of the complete update saves {saved}: compare before you choose"
    return None


def _gain_beside(row: Row, plain: str, swept: Sequence[Row]) -> Interval | None:
    """Return the mean gain of scaled intruders over interpolation in the plain setting; None if unmeasured."""
    if row["control"] != INTRUDERS:
        return None
    wanted = (_where(row), INTRUDERS, "gain", row["scale"])
    for each in swept:
        is_plain = each["setting"].removesuffix(intervention.OF_TOP) == plain
        if is_plain and (_where(each), each["control"], each["measure"], each["scale"]) == wanted:
            return interval_in(each, "change", "low", "high")
    return None


def _on_causes(finding: Finding) -> list[Advice]:
    """Advise on learning rate, alpha, data size and weight decay if they clearly change the intruder count.

    As in the verdict, that is among all settings that were compared (Holm).
    """
    topics = {"lr": "learning rate", "alpha_value": "alpha rule", "weight_decay": "weight decay"}
    topics["max_train_samples"] = "data"
    advice = []
    for row in _rows(finding, causes.TABLE):
        change = interval_in(row, "change_per_100_vectors", "low", "high")
        if row["varied"] not in topics or not change.is_clear or row["p_among_all"] >= ALPHA:
            continue
        direction = "lower" if change.estimate > 0 else "higher"
        what = "fewer" if direction == "lower" and row["varied"] == "max_train_samples" else direction
        evidence = [
            (
                f"{_where(row).label}: from {row['from']} to {row['to']}, all else equal, intruders per 100 vectors "
                f"change by {said(change)} ({seeds_said(row['seeds'])})"
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


def print_advice(advised: Advised, page: Page) -> None:
    """Print it for a person."""
    page.folded(f"advice on {advised.source} (study)")
    if not advised.advice:
        page.say("")
        page.folded("No advice: no number here speaks for a change.")
    for advice in advised.advice:
        page.say("")
        page.folded(f"{advice.topic}: {advice.change}")
        for evidence in advice.evidence:
            page.folded(f"  - {evidence}", indent="    ")
    if advised.notes:
        page.say("")
    for note in advised.notes:
        page.folded(f"- {note}", indent="  ")
