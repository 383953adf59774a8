"""How do intruders, the update's effective rank and pre-training loss move with the rank?"""

from __future__ import annotations

import pandas as pd

from ...charts.chart import Axis, Chart
from ..tables.results import Results
from .claim import Answer, Claim, Effect, Finding
from .rank_series import RankSeries, Valley, main_series, series, valley
from .shared.chosen_rates import Choice, choices
from .shared.comparable_runs import (
    LOSS_ALIKE,
    at_equal_score,
    finished,
    one_in_100,
    seeds_in,
    strata,
)
from .shared.pictures import Palette, lines, parts, values
from .shared.statistics import mean_interval
from .shared.words import NOT_MEASURED, answer, effect, said, seeds_said

CLAIM = Claim(
    name="rank",
    title="Rank",
    question=(
        "How do intruders, effective rank and pre-training loss move with the rank, under each "
        "rule for alpha; and which rank forgets least?"
    ),
    paper=(
        "At equal task score intruders become fewer as the rank grows, the update's effective "
        "rank grows, and forgetting is least at an inner rank (a U shape)."
    ),
    meaning="how many there are, and how much is forgotten, depends on the rank",
    needs=(
        "this needs finished, audited runs of `lora` or `rslora` at two ranks or more, all else "
        "equal, at one score"
    ),
    limits=("A trend is a straight line over log2 of the rank, through these ranks only.",),
)


MEASURES = {
    "per_100": "intruders per 100 vectors",
    "effective_rank": "effective rank of the update",
    "loss_change": "pre-training loss change",
    "intruder_energy_share": "intruder energy share",
}


def analyse(results: Results) -> Finding:
    """Change per doubling of the rank for every rule of alpha, over seeds, and whether the loss has a valley."""
    verdicts: list[str] = []
    notes: list[str] = []
    leading: list[Effect] = []
    others: list[Effect] = []
    answers: list[Answer] = []
    trends, points, valleys, kept = [], [], [], []
    seeds = 0
    groups: list[tuple[Choice, list[RankSeries]]] = []
    for stratum in strata(finished(results.runs), LOSS_ALIKE, notes):
        equal = at_equal_score(stratum, notes)
        for choice in choices(stratum, equal, results.select, notes):
            found = list(series(choice.runs, own_rates=bool(choice.name)))
            if found:
                groups.append((choice, found))
    for choice, found in groups:
        kept += [one.runs for one in found]
        main = main_series(found, "per_100")
        for one in found:
            trends += _trends(choice, one)
            points += _points(choice, one)
            valleys.append(_valley_row(choice, one, valley(one.table("loss_change"))))
            if one.rates_differ:
                notes.append(f"{choice.label}, {one.rule}: each rank has a learning rate of its own")
        seeds = max(seeds, len(main.table("per_100")))
        count = main.trend("per_100")
        where = f"{choice.label}, {main.rule}"
        leading.append(effect(f"{where}: intruders per 100 vectors, per doubling of the rank", count))
        for column in ("effective_rank", "loss_change"):
            others.append(
                effect(f"{where}: {MEASURES[column]}, per doubling of the rank", main.trend(column))
            )
        own = len(main.table("per_100"))
        spread = main.trend("effective_rank")
        answers += [
            answer(
                where, "intruders per 100 vectors, per doubling of the rank", count, expected=-1, seeds=own
            ),
            answer(where, "effective rank, per doubling of the rank", spread, seeds=own),
        ]
        deepest = valley(main.table("loss_change"))
        depth = NOT_MEASURED if deepest is None else deepest.depth
        lacking = (
            "three ranks or more with a loss" if deepest is None else "an inner rank with clearly less loss"
        )
        answers.append(
            answer(where, "depth of the valley of the loss, nats", depth, seeds=own, lacking=lacking)
        )
        if deepest is not None:
            others.append(
                effect(f"{where}: depth of the loss at rank {deepest.rank:g} below both ends", deepest.depth)
            )
        verdicts.append(
            f"{where}, ranks {main.ranks[0]:g} to {main.ranks[-1]:g}: per doubling of the rank {said(count)} "
            f"intruders per 100 vectors, effective rank {said(main.trend('effective_rank'))}, "
            f"{_valley_said(deepest)} "
            f"({seeds_said(len(main.table('per_100')))})"
        )
    if not leading:
        return CLAIM.missing(notes)
    runs = pd.concat(kept).drop_duplicates("run_id")
    return CLAIM.finding(
        verdict="; ".join(verdicts),
        answers=answers,
        effects=leading + others,
        seeds=seeds,
        runs=len(runs),
        tables={
            "By rank": pd.DataFrame(points),
            "Trends per doubling of the rank": pd.DataFrame(trends),
            "Rank of least loss": pd.DataFrame(valleys),
        },
        notes=notes,
    )


def _trends(choice: Choice, one: RankSeries) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for column, name in MEASURES.items():
        trend = one.trend(column)
        rows.append(
            {
                "base": choice.stratum.base,
                "task": choice.stratum.task,
                "rule": _rule(choice, one),
                "measure": name,
                "per_doubling": trend.estimate,
                "low": trend.low,
                "high": trend.high,
                "ranks": ", ".join(f"{rank:g}" for rank in one.ranks),
                "seeds": len(one.table(column)),
            }
        )
    return rows


def _points(choice: Choice, one: RankSeries) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for rank, runs in one.runs.groupby("rank"):
        for column, name in MEASURES.items():
            grain = one_in_100(runs) if column == "per_100" else 0.0
            mean = mean_interval(runs.groupby("seed")[column].mean(), grain=grain)
            rows.append(
                {
                    "base": choice.stratum.base,
                    "task": choice.stratum.task,
                    "rule": _rule(choice, one),
                    "rank": rank,
                    "measure": name,
                    "value": mean.estimate,
                    "low": mean.low,
                    "high": mean.high,
                    "seeds": seeds_in(runs),
                }
            )
    return rows


def _valley_row(choice: Choice, one: RankSeries, found: Valley | None) -> dict[str, object]:
    return {
        "base": choice.stratum.base,
        "task": choice.stratum.task,
        "rule": _rule(choice, one),
        "rank": None if found is None else found.rank,
        "depth": None if found is None else found.depth.estimate,
        "low": None if found is None else found.depth.low,
        "high": None if found is None else found.depth.high,
    }


def _rule(choice: Choice, one: RankSeries) -> str:
    return f"{one.rule}, {choice.name}" if choice.name else one.rule


def _valley_said(found: Valley | None) -> str:
    if found is None:
        return "no U shape to look for (fewer than three ranks with a loss)"
    if found.depth.low > 0:
        return f"loss least at rank {found.rank:g}, {said(found.depth, 3)} below the nearer end"
    return f"no U shape shown (deepest at rank {found.rank:g}: {said(found.depth, 3)} below the nearer end)"


_MEASURES = {
    "intruders per 100 vectors": "intruders",
    "effective rank of the update": "effective-rank",
    "pre-training loss change": "loss",
    "intruder energy share": "energy",
}

_UNITS = {"pre-training loss change": "pre-training loss change, nats/token"}


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """A chart for each measure; ranks on a logarithmic axis, intervals over seeds."""
    own = Palette()  # rules for alpha are no settings
    made = []
    for part in parts(finding.tables.get("By rank")):
        for measure, short in _MEASURES.items():
            rows = part.rows[part.rows["measure"] == measure].dropna(subset=["value"])
            if rows.empty:
                continue
            unit = _UNITS.get(measure, measure)
            made.append(
                Chart(
                    f"rank-{short}{part.slug}",
                    part.titled(f"{measure[:1].upper()}{measure[1:]} over rank"),
                    Axis("rank", "rank", log=True, marks=sorted(set(values(rows["rank"])))),
                    Axis(short.replace("-", "_"), unit, log=measure.startswith("effective")),
                    lines(rows, own, "rank", "value", name="rule", low="low", high="high"),
                    caption="Mean over seeds with its 95 % interval, where there are several.",
                )
            )
    return made
