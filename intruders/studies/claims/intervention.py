"""Do the intruders cause the forgetting?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from ...evaluation.intervals import Interval
from ..tables.results import Results
from .claim import Answer, Claim, Effect, Finding
from .intervention_charts import charts
from .shared.comparable_runs import MEASURED_ALIKE, Stratum, complete, finished, seeds_in, strata
from .shared.statistics import mean_interval
from .shared.words import NOT_MEASURED, answer, effect, said, seeds_said, unknown

__all__ = ["CLAIM", "analyse", "charts"]

CLAIM = Claim(
    name="intervention",
    title="Intervention",
    question="Do intruders cause the forgetting?",
    paper=(
        "Scaling the intruder dimensions down lowers the pre-training loss, and by more than the "
        "same done to anything else; its cost in task accuracy is listed with it."
    ),
    meaning=(
        "scaling the intruders down reduced forgetting more than every control did, at the accuracy cost listed below"
    ),
    needs="this needs finished runs with intruders and `measure: intervene` with `loss_on`",
    limits=(
        (
            "Changes are means over all scales below 1 that were measured, so that no scale is chosen "
            "after looking."
        ),
        (
            "A control that does as well leaves open whether it is the intruders or the size of the "
            "change that matters."
        ),
    ),
)


CONTROLS = {
    "shrink": "the norm-matched shrink",
    "shrink-output": "the update scaled to the same output energy",
    "random": "random other vectors",
    "neighbours": "neighboring vectors",
    "update": "directions of the update",
    "complement": "the update outside of the intruders, to the same norm,",
}
# The intervention itself.
INTRUDERS = "intruders"
# The intruders scaled and the update brought back to its norm: no rival, but the intervention without the shrinking.
RESIZED = "resized"


@dataclass(frozen=True)
class Change:
    """One measure of the change, mean over scales below 1, over seeds; over documents where there is one seed."""

    interval: Interval
    seeds: int

    @property
    def estimate(self) -> float:
        return self.interval.estimate

    @property
    def over(self) -> str:
        """What the interval is over, where that is not seeds."""
        return " over documents" if self.seeds == 1 and math.isfinite(self.interval.low) else ""

    @property
    def over_seeds(self) -> Interval:
        """One seed's documents say nothing of other seeds."""
        return self.interval if self.seeds > 1 else unknown(self.interval)


@dataclass
class _Said:
    """What was found so far, of every base and task."""

    notes: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    leading: list[Effect] = field(default_factory=list)
    others: list[Effect] = field(default_factory=list)
    seeds: int = 0


def analyse(results: Results) -> Finding:
    """Loss change when the intruders are scaled down, and how much further up the loss is under each control."""
    runs = finished(results.runs)
    columns = ["run_id", "base", "task", "seed", "setting", "described"]
    points = results.interventions.merge(runs[columns + list(MEASURED_ALIKE)], on="run_id")
    found = _Said()
    for stratum in strata(points, MEASURED_ALIKE, found.notes):
        below = stratum.runs[stratum.runs["scale"] < 1]
        losses = below[below["measure"] == "loss"]
        corpora = {str(name): _on_corpus(losses, name) for name in losses["on"].dropna().unique()}
        known = {name: one for name, one in corpora.items() if not math.isnan(one[INTRUDERS].estimate)}
        sentences = [_say_corpus(f"{stratum.label}, {name}", one, found) for name, one in known.items()]
        if sentences:  # the task is the same for all corpora
            sentences[-1] += _accuracies(below, stratum, found.others) + _gain(below, stratum, found.others)
        for parts, one in zip(sentences, known.values(), strict=True):
            found.verdicts.append(", ".join(parts) + f" ({seeds_said(one[INTRUDERS].seeds)})")
    without = _without_intruders(runs, results.interventions)
    if without:
        found.notes.append(f"{without} finished runs have no intruders, so that there was nothing to scale")
    if not found.leading:
        return CLAIM.missing(found.notes)
    return CLAIM.finding(
        verdict="; ".join(found.verdicts),
        answers=found.answers,
        effects=found.leading + found.others,
        seeds=found.seeds,
        runs=points["run_id"].nunique(),
        tables={"By scale": _by_scale(points)},
        notes=found.notes,
    )


def _on_corpus(losses: pd.DataFrame, corpus: str) -> dict[str, Change]:
    """The loss change with the intruders scaled down, also at the update's norm; of a control the loss minus that."""
    of_corpus = losses[losses["on"] == corpus]
    known = sorted(of_corpus["control"].dropna().unique())
    columns = dict.fromkeys([INTRUDERS, *CONTROLS, *known], "against_intruders")
    columns |= {INTRUDERS: "change", RESIZED: "change"}
    return {
        control: _change(of_corpus[of_corpus["control"] == control], column)
        for control, column in columns.items()
    }


def _say_corpus(where: str, changes: Mapping[str, Change], found: _Said) -> list[str]:
    """Effects, answers and notes on one corpus; what the verdict says of it, in parts."""
    loss = changes[INTRUDERS]
    found.seeds = max(found.seeds, loss.seeds)
    what = "loss change, intruders scaled down"
    found.leading.append(effect(f"{where}: {what}{loss.over}", loss.interval))
    found.answers.append(answer(where, what, loss.over_seeds, expected=-1, seeds=loss.seeds))
    parts = [f"{where}: loss change with the intruders scaled down {said(loss.interval, 3)}{loss.over}"]
    rivals = {
        control: change
        for control, change in changes.items()
        if control not in (INTRUDERS, RESIZED) and not math.isnan(change.estimate)
    }
    for control, change in rivals.items():
        name = CONTROLS.get(control, control)
        what = f"loss under {name} minus that under the intruders"
        found.others.append(effect(f"{where}: {what}{change.over}", change.interval))
        found.answers.append(answer(where, what, change.over_seeds, seeds=change.seeds))
        parts.append(f"{name} minus that {said(change.interval, 3)}")
    if not rivals:
        what = "loss under a control minus that"
        found.answers.append(answer(where, what, NOT_MEASURED, seeds=0, lacking="controls"))
        found.notes.append(f"{where}: no controls were measured, so that no cause can be told")
    resized = changes[RESIZED]
    if not math.isnan(resized.estimate):
        what = "loss change, intruders scaled down at the update's norm"
        found.others.append(effect(f"{where}: {what}{resized.over}", resized.interval))
        found.answers.append(answer(where, what, resized.over_seeds, expected=-1, seeds=resized.seeds))
        parts.append(f"at the update's own norm {said(resized.interval, 3)}")
    return parts


def _change(points: pd.DataFrame, column: str) -> Change:
    """Mean over scales, then settings, then seeds. With one seed, over documents: the mean of the ends at each scale,
    as if all scales erred together, since the same documents stand behind them."""
    if points.empty:
        return Change(Interval(math.nan, -math.inf, math.inf), 0)
    known = points.assign(value=points[column]).dropna(subset=["value"])
    per_run = known.groupby(["seed", "setting", "run_id"])["value"].mean()
    table = complete(per_run.groupby(["seed", "setting"]).mean().unstack("setting"))
    if len(table) == 1:
        kept = known[known["setting"].isin(table.columns) & known["seed"].isin(table.index)]
        low, high = kept[f"{column}_low"].mean(), kept[f"{column}_high"].mean()
        if math.isfinite(low) and math.isfinite(high):
            return Change(Interval(float(table.to_numpy().mean()), float(low), float(high)), 1)
    return Change(mean_interval(table.mean(axis=1)), len(table))


def _accuracies(below: pd.DataFrame, stratum: Stratum, others: list[Effect]) -> list[str]:
    scored = below[(below["measure"] == "accuracy") & (below["control"] == INTRUDERS)]
    found = _change(scored, "change")
    if math.isnan(found.interval.estimate):
        return []
    points = Interval(
        *(100 * value for value in (found.interval.estimate, found.interval.low, found.interval.high))
    )
    others.append(effect(f"{stratum.label}: accuracy change in points, intruders scaled down", points))
    return [f"task accuracy {said(points, 1)} points"]


def _gain(below: pd.DataFrame, stratum: Stratum, others: list[Effect]) -> list[str]:
    """What scaling the intruders gains over scaling the complete update by one factor, where that was measured."""
    rows = below[(below["measure"] == "gain") & (below["control"] == INTRUDERS)]
    found = _change(rows, "change")
    if math.isnan(found.interval.estimate):
        return []
    what = "gain over interpolation at equal task loss"
    others.append(effect(f"{stratum.label}: {what}, intruders scaled down{found.over}", found.interval))
    return [f"{what} {said(found.interval, 3)}"]


def _by_scale(points: pd.DataFrame) -> pd.DataFrame:
    rows = []
    keys = ["base", "task", "described", "measure", "on", "control", "scale"]
    for values, group in points.groupby(keys):
        change = _change(group, "change").interval
        against = _change(group, "against_intruders").interval
        rows.append(
            {
                **dict(zip(["base", "task", "setting", *keys[3:]], values, strict=True)),
                "value": group["value"].mean(),
                "base_value": group["base_value"].mean(),
                "change": change.estimate,
                "low": change.low,
                "high": change.high,
                "against_intruders": against.estimate,
                "against_low": against.low,
                "against_high": against.high,
                "seeds": seeds_in(group),
            }
        )
    return pd.DataFrame(rows)


def _without_intruders(runs: pd.DataFrame, interventions: pd.DataFrame) -> int:
    return int(((runs["intruders"] == 0) & ~runs["run_id"].isin(interventions["run_id"])).sum())
