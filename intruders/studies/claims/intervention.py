"""Do the intruders cause the forgetting?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from ...charts.chart import Axis, Chart, Rule
from ...evaluation.intervals import Interval
from ..tables.results import Results
from .claim import Answer, Claim, Effect, Finding
from .shared.comparable_runs import MEASURED_ALIKE, Stratum, complete, finished, numbers, seeds_in, strata
from .shared.pictures import Palette, Part, lines, parts, slug
from .shared.statistics import mean_interval
from .shared.words import answer, effect, said, seeds_said, unknown

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
    "shrink-output": "the shrink to the same output energy",
    "random": "random other vectors",
    "neighbours": "neighboring vectors",
    "update": "directions of the update",
    "complement": "the update outside of the intruders, to the same norm,",
}
# The intruders scaled and the update brought back to its norm: no rival, but the intervention without the shrinking.
RESIZED = "resized"


@dataclass(frozen=True)
class Change:
    """One measure of the change, mean over scales below 1, over seeds; over documents where there is one seed."""

    interval: Interval
    seeds: int

    @property
    def over_seeds(self) -> Interval:
        """One seed's documents say nothing of other seeds."""
        return self.interval if self.seeds > 1 else unknown(self.interval)


def analyse(results: Results) -> Finding:
    """Loss change when the intruders are scaled down, and how much further up the loss is under each control."""
    runs = finished(results.runs)
    columns = ["run_id", "base", "task", "seed", "setting", "described"]
    points = results.interventions.merge(runs[columns + list(MEASURED_ALIKE)], on="run_id")
    verdicts: list[str] = []
    notes: list[str] = []
    answers: list[Answer] = []
    leading: list[Effect] = []
    others: list[Effect] = []
    seeds = 0
    for stratum in strata(points, MEASURED_ALIKE, notes):
        below = stratum.runs[numbers(stratum.runs, "scale") < 1]
        losses = below[below["measure"] == "loss"]
        for corpus in losses["on"].dropna().unique():
            of_corpus = losses[losses["on"] == corpus]
            loss = _change(of_corpus[of_corpus["control"] == "intruders"], "change")
            if math.isnan(loss.interval.estimate):
                continue
            where = f"{stratum.label}, {corpus}"
            leading.append(effect(f"{where}: loss change, intruders scaled down{_over(loss)}", loss.interval))
            parts = [
                f"{where}: loss change with the intruders scaled down {said(loss.interval, 3)}{_over(loss)}"
            ]
            compared = [
                answer(
                    where,
                    "loss change, intruders scaled down",
                    loss.over_seeds,
                    expected=-1,
                    seeds=loss.seeds,
                )
            ]
            measured = [control for control in of_corpus["control"].unique() if control != "intruders"]
            for control in [*CONTROLS, *sorted(set(measured) - CONTROLS.keys() - {RESIZED})]:
                name = CONTROLS.get(control, control)
                against = _change(of_corpus[of_corpus["control"] == control], "against_intruders")
                if math.isnan(against.interval.estimate):
                    continue
                others.append(
                    effect(
                        f"{where}: loss under {name} minus that under the intruders{_over(against)}",
                        against.interval,
                    )
                )
                what = f"loss under {name} minus that under the intruders"
                compared.append(answer(where, what, against.over_seeds, seeds=against.seeds))
                parts.append(f"{name} minus that {said(against.interval, 3)}")
            if len(compared) == 1:
                nothing = unknown(loss.interval)
                compared.append(
                    answer(where, "loss under a control minus that", nothing, seeds=0, lacking="controls")
                )
                notes.append(f"{where}: no controls were measured, so that no cause can be told")
            resized = _change(of_corpus[of_corpus["control"] == RESIZED], "change")
            if not math.isnan(resized.interval.estimate):
                what = "loss change, intruders scaled down at the update's norm"
                others.append(effect(f"{where}: {what}{_over(resized)}", resized.interval))
                compared.append(answer(where, what, resized.over_seeds, expected=-1, seeds=resized.seeds))
                parts.append(f"at the update's own norm {said(resized.interval, 3)}")
            parts += _accuracies(below, stratum, others) + _gain(below, stratum, others)
            seeds = max(seeds, loss.seeds)
            answers += compared
            verdicts.append(", ".join(parts) + f" ({seeds_said(loss.seeds)})")
    without = _without_intruders(runs, results.interventions)
    if without:
        notes.append(f"{without} finished runs have no intruders, so that there was nothing to scale")
    if not leading:
        return CLAIM.missing(notes)
    return CLAIM.finding(
        verdict="; ".join(verdicts),
        answers=answers,
        effects=leading + others,
        seeds=seeds,
        runs=points["run_id"].nunique(),
        tables={"By scale": _by_scale(points)},
        notes=notes,
    )


def _change(points: pd.DataFrame, column: str) -> Change:
    """Mean over scales, then settings, then seeds. With one seed, over documents: the mean of the ends at each scale,
    as if all scales erred together, since the same documents stand behind them."""
    if points.empty:
        return Change(Interval(math.nan, -math.inf, math.inf), 0)
    known = points.assign(value=numbers(points, column)).dropna(subset=["value"])
    per_run = known.groupby(["seed", "setting", "run_id"])["value"].mean().reset_index()
    table = complete(per_run.pivot_table(index="seed", columns="setting", values="value", aggfunc="mean"))
    if len(table) == 1:
        kept = known[known["setting"].isin(table.columns) & known["seed"].isin(table.index)]
        low, high = numbers(kept, f"{column}_low").mean(), numbers(kept, f"{column}_high").mean()
        if math.isfinite(low) and math.isfinite(high):
            return Change(Interval(float(table.to_numpy().mean()), float(low), float(high)), 1)
    return Change(mean_interval(table.mean(axis=1)), len(table))


def _over(change: Change) -> str:
    return " over documents" if change.seeds == 1 and math.isfinite(change.interval.low) else ""


def _accuracies(below: pd.DataFrame, stratum: Stratum, others: list[Effect]) -> list[str]:
    scored = below[(below["measure"] == "accuracy") & (below["control"] == "intruders")]
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
    rows = below[(below["measure"] == "gain") & (below["control"] == "intruders")]
    found = _change(rows, "change")
    if math.isnan(found.interval.estimate):
        return []
    what = "gain over interpolation at equal task loss"
    others.append(effect(f"{stratum.label}: {what}, intruders scaled down{_over(found)}", found.interval))
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
                "value": numbers(group, "value").mean(),
                "base_value": numbers(group, "base_value").mean(),
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
    return int(((numbers(runs, "intruders") == 0) & ~runs["run_id"].isin(interventions["run_id"])).sum())


_NAMES = {
    "intruders": "the intruders",
    "shrink": "control: the complete update, to the same norm",
    "shrink-output": "control: the complete update, to the same output energy",
    "random": "control: random other vectors",
    "neighbours": "control: neighboring vectors",
    "update": "control: directions of the update",
    "complement": "control: the update outside of the intruders, to the same norm",
    "resized": "the intruders, the update brought back to its norm",
}

_TITLES = {
    "loss": "Pre-training loss",
    "accuracy": "Task accuracy",
    "gain": "Gain over interpolation at equal task loss",
}

_UNITS = {"loss": "loss change, nats/token", "accuracy": "accuracy change", "gain": "gain, nats/token"}

_MOST_SETTINGS = 4  # of one base and task; the table has all


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Change against the tuned model over the scale, a line for each control; the settings that forgot most."""
    own = Palette()  # controls are no settings
    made = []
    table = finding.tables.get("By scale")
    for stratum in parts(table):
        for setting in _forgot_most(stratum.rows):
            of_setting = stratum.rows[stratum.rows["setting"] == setting].sort_values(
                "measure", ascending=False
            )
            for part in parts(of_setting, "measure", "on"):  # loss before accuracy
                made.append(_chart(part, stratum, own))
    return made


def _chart(part: Part, stratum: Part, palette: Palette) -> Chart:
    first = part.rows.iloc[0]
    measure = str(first["measure"])
    whole = float(first["base_value"]) - _tuned_value(part.rows)
    is_loss = measure == "loss" and math.isfinite(whole)
    return Chart(
        f"intervention{stratum.slug}{slug(str(first['setting']))}-{measure}{slug(str(first['on']))}",
        stratum.titled(f"{_TITLES.get(measure, measure)} on {first['on']}, {first['setting']}"),
        Axis("scale", "scale (1: as tuned, 0: removed)"),
        Axis(f"{measure}_change", _UNITS.get(measure, measure)),
        lines(_from_tuned(part.rows), palette, "scale", "change", name="what", low="low", high="high"),
        [Rule("y", 0.0), Rule("y", whole, "as low as the base")] if is_loss else [Rule("y", 0.0)],
        caption="Against the tuned model; intervals over seeds, where there are several.",
    )


def _forgot_most(rows: pd.DataFrame) -> list[str]:
    """The settings whose loss stands furthest above the base's, the furthest first."""
    losses = rows[rows["measure"] == "loss"]
    risen = (losses["value"] - losses["change"] - losses["base_value"]).groupby(losses["setting"]).max()
    known = list(risen.sort_values(ascending=False).index)
    return (known or list(dict.fromkeys(rows["setting"])))[:_MOST_SETTINGS]


def _tuned_value(rows: pd.DataFrame) -> float:
    """The measure of the tuned model: of scale 1, or what any other row says it changed from."""
    return float((rows["value"] - rows["change"]).mean())


def _from_tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of every control with the one point that all share: at scale 1 nothing is changed."""
    named = rows.assign(what=[_NAMES.get(control, control) for control in rows["control"]])
    named = named[named["scale"] != 1]
    start = pd.DataFrame(
        {"what": list(dict.fromkeys(named["what"])), "scale": 1.0, "change": 0.0, "low": 0.0, "high": 0.0}
    )
    order = {name: i for i, name in enumerate(_NAMES.values())}
    whole = pd.concat([named, start], ignore_index=True)
    return whole.sort_values("what", key=lambda names: names.map(order), kind="stable")
