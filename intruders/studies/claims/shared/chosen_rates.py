"""Which learning rate of each method a comparison is made at: the rate is a confound, so a study can make it a choice.

Methods are compared at their own *fastest* rate (fewest steps to the score) and at their own *mildest* one (least
forgetting among the rates that reach the score in the budget).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from .comparable_runs import Stratum, label_of, setting_of

_STEPS = "trained_steps"
# What a rate forgets, the first that is known: of a sequence, of a single task, and where neither was measured.
_FORGETTING = {
    "forgetting": "points forgotten",
    "loss_change": "pre-training loss change",
    "update_frobenius": "update norm, since no loss was measured",
}


@dataclass(frozen=True)
class Choice:
    """The runs of a stratum that are compared, and at which rates in words."""

    stratum: Stratum
    name: str  # fastest, mildest, or empty: all rates

    @property
    def runs(self) -> pd.DataFrame:
        return self.stratum.runs

    @property
    def label(self) -> str:
        return self.stratum.label + (f", each method at its {self.name} rate" if self.name else "")


def choices(
    stratum: Stratum, equal: pd.DataFrame, select: Sequence[str], notes: list[str]
) -> Iterator[Choice]:
    """The runs at equal score, ``equal``: all of them, or for each of ``select`` those of one rate of each method.

    A method is a setting without its learning rate. Of its rates only those count that reached the score in the most
    seeds, and of these the one with the best mean over seeds is chosen. ``notes`` is told what was chosen, and that it
    was chosen on the seeds that are reported.
    """
    if not select:
        yield Choice(replace(stratum, runs=equal), "")
    for name in select:
        column = _STEPS if name == "fastest" else _measure_of_forgetting(equal)
        kept, said = [], []
        for _, runs in equal.groupby(_methods(equal)):
            rate = _best_rate(runs, column)
            chosen = runs[runs["lr"] == rate] if math.isfinite(rate) else runs
            kept.append(chosen)
            first = {str(key): value for key, value in chosen.iloc[0].items()}
            said.append(f"{label_of(first)} of {runs['lr'].nunique()}")
        if not kept:
            continue
        by = "fewest steps to the score" if name == "fastest" else f"least {_FORGETTING[column]}"
        notes.append(
            f"{stratum.label}, {name} rates ({by}), chosen by the mean over the same seeds that are reported "
            f"(in-sample): {'; '.join(said)} rates that reached the score"
        )
        yield Choice(replace(stratum, runs=pd.concat(kept)), name)


def chosen_in(runs: pd.DataFrame, found: Sequence[Choice]) -> pd.Series[str]:
    """For each run which of the choices have it, comma-separated: for the tables and figures of all points."""
    named = [one for one in found if one.name]
    return pd.Series(
        [
            ", ".join(one.name for one in named if run_id in set(one.runs["run_id"]))
            for run_id in runs["run_id"]
        ],
        index=runs.index,
        dtype=object,
    )


def _methods(runs: pd.DataFrame) -> pd.Series[str]:
    """All that was chosen but the seed and the learning rate."""
    keys = [setting_of({str(k): v for k, v in row.items()}, ["lr"]) for row in runs.to_dict("records")]
    return pd.Series(keys, index=runs.index, dtype=object)


def _measure_of_forgetting(runs: pd.DataFrame) -> str:
    known = [name for name in _FORGETTING if name in runs and bool(runs[name].notna().any())]
    return known[0] if known else "update_frobenius"


def _best_rate(runs: pd.DataFrame, column: str) -> float:
    """The rate of the least mean over seeds, of those with the most seeds; the lower one of two that are equal."""
    known = pd.DataFrame({name: runs[name] for name in ("lr", "seed", column)}).dropna()
    if known.empty:
        return math.nan
    per_rate = known.groupby("lr").agg(seeds=("seed", "nunique"), mean=(column, "mean"))
    reached = per_rate[per_rate["seeds"] == per_rate["seeds"].max()]
    return float(reached["mean"].idxmin())
