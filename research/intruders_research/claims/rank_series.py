"""Runs that differ in the rank alone, by the rule that sets alpha; and the rank of the least loss."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from intruders.measures.intervals import LEVEL, NOTHING, Interval, mean_interval
from intruders.studies.compare_settings import settings_in

from .shared.claim import Where
from .shared.seed_tables import complete, one_in_100, seed_table
from .shared.statistics import slope

# In the names of effects, by which advice on the rank finds them.
PER_DOUBLING = "per doubling of the rank"
ADAPTERS = {"lora": "", "rslora": "rank-stabilized, "}


@dataclass(frozen=True)
class RankSeries:
    """Runs of at least two ranks and one rule for alpha, all else equal."""

    rule: str  # such as "alpha = 2r" or "rank-stabilized, alpha = 16"
    runs: pd.DataFrame
    rates_differ: bool  # each rank has a learning rate of its own

    @property
    def ranks(self) -> list[float]:
        return sorted(self.runs["rank"].unique())

    def notes(self, on: Where) -> list[str]:
        told = f"{on.label}, {self.rule}: each rank has a learning rate of its own"
        return [told] if self.rates_differ else []

    def table(self, column: str) -> pd.DataFrame:
        """Return a column by seed (rows) and rank (columns), without gaps."""
        return complete(seed_table(self.runs, column, by="rank"))

    def trend(self, column: str) -> Interval:
        """Return the change per doubling of the rank: each seed's least-squares slope on log2 r, mean over seeds."""
        grain = one_in_100(self.runs) if column in ("per_100", "gained_per_100") else 0.0
        table = self.table(column)
        doublings = np.log2(table.columns.to_numpy(dtype=float))
        spread = float(np.sqrt(((doublings - doublings.mean()) ** 2).sum())) if len(doublings) else 0.0
        # The slope's own spread when every count has that of its grain.
        return mean_interval(
            [slope(doublings, row) for row in table.to_numpy()], grain=grain / spread if spread > 0 else 0.0
        )


def series(runs: pd.DataFrame, *, own_rates: bool = False) -> Iterator[RankSeries]:
    """Yield all series of a stratum's runs. A run with alpha 2 at rank 1 is in "alpha = 2r" and in "alpha = 2".

    With ``own_rates``, only series in which each rank has the rate that was chosen for it.
    """
    for method, prefix in ADAPTERS.items():
        of_method = runs[runs["method"] == method]
        alpha, rank = of_method["alpha_value"], of_method["rank"]
        for values, unit in ((alpha / rank, "r"), (alpha, "")):
            for value in sorted(values.dropna().unique()):
                rule = f"{prefix}alpha = {'' if unit and value == 1 else f'{value:g}'}{unit}"
                yield from _all_else_equal(rule, of_method[np.isclose(values, value)], own_rates)


def _all_else_equal(rule: str, runs: pd.DataFrame, own_rates: bool) -> Iterator[RankSeries]:
    """Yield series with all else equal; with one learning rate per rank if that gives more ranks."""
    all_series: list[RankSeries] = []
    ways = ((False, ["rank", "alpha"]), (True, ["rank", "alpha", "lr"]))
    for rates_differ, without in ways[1:] if own_rates else ways:
        most = max((len(earlier.ranks) for earlier in all_series), default=1)
        for _, group in runs.groupby(settings_in(runs, without)):
            ranks = group["rank"]
            if ranks.nunique() < 2:
                continue
            if rates_differ and (ranks.nunique() <= most or group.groupby(ranks)["lr"].nunique().max() > 1):
                continue
            all_series.append(
                RankSeries(rule + (", a rate for each rank" if rates_differ else ""), group, rates_differ)
            )
    for each in all_series:
        is_alone = sum(other.rule == each.rule for other in all_series) == 1
        yield each if is_alone else replace(each, rule=f"{each.rule}, {_all_else(each.runs)}")


def _all_else(runs: pd.DataFrame) -> str:
    """Return what runs that differ in rank and alpha have in common, in the words that describe them."""
    told = [str(described).split(" ")[1:] for described in runs["described"]]
    in_all = [word for word in told[0] if all(word in words for words in told)]
    return " ".join(word for word in in_all if not word.startswith(("r=", "alpha=")))


def main_series(all_series: Sequence[RankSeries], column: str) -> RankSeries:
    """Pick the series of the verdict: equal rates first, then more ranks, then more values, then alpha = 2r."""
    return max(
        all_series,
        key=lambda candidate: (
            not candidate.rates_differ,
            len(candidate.ranks),
            candidate.table(column).size,
            "2r" in candidate.rule,
        ),
    )


@dataclass(frozen=True)
class Valley:
    """The inner rank at which the loss lies deepest below both ends, and by how much below the lower one."""

    rank: float
    depth: Interval


def valley(table: pd.DataFrame) -> Valley:
    """Return the deepest inner rank of the loss; NaN with fewer than three ranks.

    For an inner rank r the losses at the least and at the greatest rank minus that at r, paired by seed, each with
    Student's interval at level 1 - 0.05 / (number of inner ranks), since the deepest of them is chosen after looking
    (Bonferroni). The depth is the smaller difference, and its ends the smaller ones of both intervals: above zero only
    where both are. Its p value is that of the end of the interval that is nearer to zero: the larger of both for a
    depth above zero, and the least of those below for a depth below.
    """
    ranks = sorted(table.columns)
    if len(ranks) < 3 or table.empty:
        return Valley(math.nan, NOTHING)
    level = 1 - (1 - LEVEL) / (len(ranks) - 2)
    valleys = []
    for rank in ranks[1:-1]:
        rises = [
            mean_interval((table[end] - table[rank]).to_numpy(), level=level) for end in (ranks[0], ranks[-1])
        ]
        estimate, low, high = (
            min(getattr(rise, end) for rise in rises) for end in ("estimate", "low", "high")
        )
        depth = Interval(estimate, low, high, len(table), level=level)
        of_sign = [rise.p for rise in rises if estimate > 0 or rise.estimate <= 0]
        known = [p for p in of_sign if p is not None]
        if len(known) == len(of_sign):  # above zero where both are, below where one is
            depth = replace(depth, p=max(known) if estimate > 0 else min(known))
        valleys.append(Valley(float(rank), depth))
    return max(valleys, key=lambda candidate: candidate.depth.estimate)
