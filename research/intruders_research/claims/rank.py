"""How do intruders, the update's effective rank and pre-training loss move with the rank?"""

from __future__ import annotations

import pandas as pd

from intruders.charts.chart import Axis, Chart
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .rank_series import PER_DOUBLING, RankSeries, Valley, main_series, series, valley
from .shared.chosen_rates import choices
from .shared.claim import Claim, Finding, Where
from .shared.equal_score import at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import Palette, lines, parts, values
from .shared.seed_tables import one_in_100, seeds_in
from .shared.strata import LOSS_ALIKE, finished, strata
from .shared.words import NOT_MEASURED, said

CLAIM = Claim(
    name="rank",
    title="Rank",
    question=(
        "How do intruders, effective rank and pre-training loss move with the rank, under each rule for "
        "alpha; and which rank forgets least?"
    ),
    paper=(
        "At equal task score intruders become fewer as the rank grows, the update's effective rank "
        "grows, and forgetting is least at an inner rank (a U shape)."
    ),
    meaning="how many there are, and how much is forgotten, depends on the rank",
    needs=(
        "this needs finished, audited runs of `lora` or `rslora` at two ranks or more, all else equal, "
        "at one score"
    ),
    limits=("A trend is a straight line over log2 of the rank, through these ranks only.",),
)


# Titles of tables that others read.
TRENDS, VALLEYS = "Trends per doubling of the rank", "Rank of least loss"
MEASURES = {
    "per_100": "intruders per 100 vectors",
    "effective_rank": "effective rank of the update",
    "loss_change": "pre-training loss change",
    "intruder_energy_share": "intruder energy share",
}


def analyse(results: Results) -> Finding:
    """Measure the change per doubling of the rank under every rule for alpha, and look for a valley of the loss."""
    evidence = Evidence(results.primary.get(CLAIM.name, ""))
    trends, points, valleys, runs = [], [], [], []
    for stratum in strata(finished(results.runs), LOSS_ALIKE):
        equal, missed = at_equal_score(stratum)
        evidence.notes += [*stratum.notes, *missed]
        for choice in choices(stratum, equal, results.select):
            evidence.notes += choice.notes
            all_series = list(series(choice.runs, own_rates=bool(choice.name)))
            for each in all_series:
                keys = {
                    "base": choice.on.base,
                    "task": choice.on.task,
                    "rule": f"{each.rule}, {choice.name}" if choice.name else each.rule,
                }
                runs += list(each.runs["run_id"])
                trends += [keys | row for row in _trends(each)]
                points += [keys | row for row in _points(each)]
                valleys.append(keys | _valley_row(valley(each.table("loss_change"))))
                if each.rates_differ:
                    evidence.notes.append(
                        f"{choice.on.label}, {each.rule}: each rank has a learning rate of its own"
                    )
            if all_series:
                main = main_series(all_series, "per_100")
                _add(evidence, choice.on.narrowed(main.rule), main)
    return evidence.finding(
        CLAIM,
        runs=runs,
        tables={
            "By rank": pd.DataFrame(points),
            TRENDS: pd.DataFrame(trends),
            VALLEYS: pd.DataFrame(valleys),
        },
    )


def _add(evidence: Evidence, on: Where, main: RankSeries) -> None:
    """Add the trends and the valley of the series that decides the verdict."""
    count, spread = main.trend("per_100"), main.trend("effective_rank")
    evidence.add(
        on,
        f"intruders per 100 vectors, {PER_DOUBLING}",
        count,
        expected=-1,
        phrase=f"ranks {main.ranks[0]:g} to {main.ranks[-1]:g}, per doubling of the rank {said(count)} intruders per "
        "100 vectors",
    )
    evidence.add(
        on, f"{MEASURES['effective_rank']}, {PER_DOUBLING}", spread, phrase=f"effective rank {said(spread)}"
    )
    loss = main.trend("loss_change")
    evidence.add(on, f"{MEASURES['loss_change']}, {PER_DOUBLING}", loss, expected=None, digits=3, phrase="")
    deepest = valley(main.table("loss_change"))
    evidence.add(
        on,
        "depth of the valley of the loss, nats",
        NOT_MEASURED if deepest is None else deepest.depth,
        digits=3,
        phrase=_valley_said(deepest),
        seeds=len(main.table("per_100")),
        lacking="three ranks or more with a loss"
        if deepest is None
        else "an inner rank with clearly less loss",
    )


def _trends(each: RankSeries) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for column, name in MEASURES.items():
        trend = each.trend(column)
        rows.append(
            {
                "measure": name,
                **trend.columns("per_doubling"),
                "ranks": ", ".join(f"{rank:g}" for rank in each.ranks),
                "seeds": len(each.table(column)),
            }
        )
    return rows


def _points(each: RankSeries) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for rank, runs in each.runs.groupby("rank"):
        for column, name in MEASURES.items():
            grain = one_in_100(runs) if column == "per_100" else 0.0
            mean = mean_interval(runs.groupby("seed")[column].mean(), grain=grain)
            rows.append({"rank": rank, "measure": name, **mean.columns("value"), "seeds": seeds_in(runs)})
    return rows


def _valley_row(deepest: Valley | None) -> dict[str, object]:
    return {
        "rank": None if deepest is None else deepest.rank,
        "depth": None if deepest is None else deepest.depth.estimate,
        "low": None if deepest is None else deepest.depth.low,
        "high": None if deepest is None else deepest.depth.high,
    }


def _valley_said(deepest: Valley | None) -> str:
    if deepest is None:
        return "no U shape to look for (fewer than three ranks with a loss)"
    if deepest.depth.is_above_zero:
        return f"loss least at rank {deepest.rank:g}, {said(deepest.depth, 3)} below the nearer end"
    return (
        f"no U shape shown (deepest at rank {deepest.rank:g}: {said(deepest.depth, 3)} below the nearer end)"
    )


_MEASURES = {
    "intruders per 100 vectors": "intruders",
    "effective rank of the update": "effective-rank",
    "pre-training loss change": "loss",
    "intruder energy share": "energy",
}

_UNITS = {"pre-training loss change": "pre-training loss change, nats/token"}


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Draw one chart per measure; ranks on a logarithmic axis, intervals over seeds."""
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
