"""How do intruders, the update's effective rank and pre-training loss move with the rank?"""

import math
from collections.abc import Iterator

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
from .shared.words import said

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
    evidence = Evidence(CLAIM, results)
    trends, points, valleys, runs = [], [], [], []
    for stratum in strata(finished(results.runs), LOSS_ALIKE):
        equal = at_equal_score(stratum)
        evidence.notes += equal.notes
        for choice in choices(equal, results.select):
            evidence.notes += choice.notes
            all_series = list(series(choice.runs, own_rates=bool(choice.name)))
            for each in all_series:
                rule = f"{each.rule}, {choice.name}" if choice.name else each.rule
                keys = choice.on.columns | {"rule": rule}
                runs += list(each.runs["run_id"])
                trends += [keys | row for row in _trends(each)]
                points += [keys | row for row in _points(each)]
                deepest = valley(each.table("loss_change"))
                valleys.append(keys | {"rank": deepest.rank} | deepest.depth.cells("depth", "low", "high"))
                evidence.notes += each.notes(choice.on)
            if all_series:
                main = main_series(all_series, "per_100")
                _add(evidence, choice.on.narrowed(main.rule), main)
    tables = {"By rank": points, TRENDS: trends, VALLEYS: valleys}
    return evidence.finding(runs, {title: pd.DataFrame(rows) for title, rows in tables.items()})


def _add(evidence: Evidence, on: Where, main: RankSeries) -> None:
    """Add the trends and the valley of the series that decides the verdict."""
    count, spread, loss = (main.trend(name) for name in ("per_100", "effective_rank", "loss_change"))
    ranks = f"ranks {main.ranks[0]:g} to {main.ranks[-1]:g}"
    phrase = f"{ranks}, per doubling of the rank {said(count)} intruders per 100 vectors"
    evidence.add(on, f"{MEASURES['per_100']}, {PER_DOUBLING}", count, expected=-1, phrase=phrase)
    phrase = f"effective rank {said(spread)}"
    evidence.add(on, f"{MEASURES['effective_rank']}, {PER_DOUBLING}", spread, phrase=phrase)
    evidence.add(on, f"{MEASURES['loss_change']}, {PER_DOUBLING}", loss, None, digits=3, phrase="")
    deepest = valley(main.table("loss_change"))
    is_known = not math.isnan(deepest.rank)
    evidence.add(
        on,
        "depth of the valley of the loss, nats",
        deepest.depth,
        digits=3,
        phrase=_valley_said(deepest),
        seeds=len(main.table("per_100")),
        lacking="an inner rank with clearly less loss" if is_known else "three ranks or more with a loss",
    )


def _trends(each: RankSeries) -> Iterator[dict[str, object]]:
    for column, name in MEASURES.items():
        yield {
            "measure": name,
            **each.trend(column).cells("per_doubling", "low", "high"),
            "ranks": ", ".join(f"{rank:g}" for rank in each.ranks),
            "seeds": len(each.table(column)),
        }


def _points(each: RankSeries) -> Iterator[dict[str, object]]:
    for rank, runs in each.runs.groupby("rank"):
        for column, name in MEASURES.items():
            grain = one_in_100(runs) if column == "per_100" else 0.0
            mean = mean_interval(runs.groupby("seed")[column].mean(), grain=grain)
            yield {
                "rank": rank,
                "measure": name,
                **mean.cells("value", "low", "high"),
                "seeds": seeds_in(runs),
            }


def _valley_said(deepest: Valley) -> str:
    if math.isnan(deepest.rank):
        return "no U shape to look for (fewer than three ranks with a loss)"
    if deepest.depth.is_above_zero:
        return f"loss least at rank {deepest.rank:g}, {said(deepest.depth, 3)} below the nearer end"
    return (
        f"no U shape shown (deepest at rank {deepest.rank:g}: {said(deepest.depth, 3)} below the nearer end)"
    )


# In the names of the charts.
_SHORT = {"per_100": "intruders", "effective_rank": "effective-rank"}
_SHORT |= {"loss_change": "loss", "intruder_energy_share": "energy"}


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw one chart per measure; ranks on a logarithmic axis, intervals over seeds."""
    own = Palette()  # rules for alpha are no settings
    for part in parts(finding.tables.get("By rank")):
        for column, short in _SHORT.items():
            measure = MEASURES[column]
            rows = part.rows[part.rows["measure"] == measure].dropna(subset=["value"])
            unit = f"{measure}, nats/token" if column == "loss_change" else measure
            if len(rows):
                yield Chart(
                    f"rank-{short}{part.slug}",
                    part.titled(f"{measure[:1].upper()}{measure[1:]} over rank"),
                    Axis("rank", "rank", log=True, marks=sorted(set(values(rows["rank"])))),
                    Axis(short.replace("-", "_"), unit, log=column == "effective_rank"),
                    lines(rows, own, "rank", "value", name="rule", low="low", high="high"),
                    caption="Mean over seeds with its 95 % interval, where there are several.",
                )
