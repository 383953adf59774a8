"""Learning rates at which methods are compared: the rate is a confound, so a study can choose it.

Methods are compared at their own *fastest* rate (fewest steps to the score) and at their own *mildest* one (least
forgetting among the rates that reach the score in the budget).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from intruders.studies.compare_settings import label_of, rows_in, settings_in

from .strata import Stratum

_STEPS = "trained_steps"
# What a rate forgets, the first that is known: of a sequence, of a single task, and where neither was measured.
_FORGETTING = {
    "forgetting": "points forgotten",
    "loss_change": "pre-training loss change",
    "update_frobenius": "update norm, since no loss was measured",
}


@dataclass(frozen=True)
class Choice(Stratum):
    """The runs of a stratum that are compared; its notes tell how their rates were chosen."""

    name: str = ""  # fastest, mildest, or empty: all rates


def choices(equal: Stratum, select: Sequence[str]) -> Iterator[Choice]:
    """Yield the runs of a stratum at equal score: all, or for each of ``select`` those of one rate per method.

    A method is a setting without its learning rate. Of its rates only those count that reached the score in the most
    seeds, and of these the one with the best mean over seeds is chosen. The notes of a choice tell what was chosen,
    and that it was chosen on the seeds that are reported.
    """
    if not select:
        yield Choice(equal.on, equal.runs)
    for name in select:
        known = [name for name in _FORGETTING if name in equal.runs and equal.runs[name].notna().any()]
        column = _STEPS if name == "fastest" else [*known, "update_frobenius"][0]
        kept, described = [], []
        for _, runs in equal.runs.groupby(settings_in(equal.runs, ["lr"])):
            rate = _best_rate(runs, column)
            chosen = runs[runs["lr"] == rate] if math.isfinite(rate) else runs
            kept.append(chosen)
            described.append(f"{label_of(rows_in(chosen)[0])} of {runs['lr'].nunique()}")
        if not kept:
            continue
        by = "fewest steps to the score" if name == "fastest" else f"least {_FORGETTING[column]}"
        note = (
            f"{equal.label}, {name} rates ({by}), chosen by the mean over the same seeds that are "
            f"reported (in-sample): {'; '.join(described)} rates that reached the score"
        )
        yield Choice(equal.on.narrowed(f"each method at its {name} rate"), pd.concat(kept), (note,), name)


def chosen_in(runs: pd.DataFrame, chosen: Sequence[Choice]) -> "pd.Series[str]":
    """List for each run the choices that include it, comma-separated, for the tables and figures of all points."""
    named = [choice for choice in chosen if choice.name]
    return pd.Series(
        [
            ", ".join(choice.name for choice in named if run_id in set(choice.runs["run_id"]))
            for run_id in runs["run_id"]
        ],
        index=runs.index,
        dtype=object,
    )


def _best_rate(runs: pd.DataFrame, column: str) -> float:
    """Return the rate with the least mean over seeds, among those with the most seeds; of two equal, the lower."""
    known = pd.DataFrame({name: runs[name] for name in ("lr", "seed", column)}).dropna()
    if known.empty:
        return math.nan
    per_rate = known.groupby("lr").agg(seeds=("seed", "nunique"), mean=(column, "mean"))
    reached = per_rate[per_rate["seeds"] == per_rate["seeds"].max()]
    return float(reached["mean"].idxmin())
