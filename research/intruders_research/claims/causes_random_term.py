"""The simplest mechanism: a random rank-one term of growing size added to real base matrices, without any training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from intruders.measures.intervals import Interval, mean_interval

from .shared.statistics import clipped
from .shared.strata import MEASURED_ALIKE, finished, largest_alike


@dataclass(frozen=True)
class Mechanism:
    """A base's rise of the share of matrices with an intruder, from the smallest to the largest multiple."""

    base: str
    rise: Interval
    from_multiple: float
    to_multiple: float
    agreement: float  # share of matrices and multiples where the spiked threshold says the same


def mechanisms(runs: pd.DataFrame, mechanism: pd.DataFrame) -> tuple[list[Mechanism], pd.DataFrame]:
    """Return a record per base, and the share of matrices with intruders by multiple, measured and predicted."""
    columns = [
        "base",
        "multiple",
        "share_with_intruders",
        "low",
        "high",
        "predicted_share",
        "matrices",
        "seeds",
    ]
    drawn = finished(runs, "random-rank-one")
    if mechanism.empty or drawn.empty:
        return [], pd.DataFrame(columns=columns)
    known = mechanism.merge(drawn[["run_id", "base", "seed", *MEASURED_ALIKE]], on="run_id")
    known["has"] = known["intruders"] > 0
    known["predicted"] = known["predicted_multiple"] <= known["multiple"]
    records, rows = [], []
    for base, of_base in known.groupby("base"):
        group = _with_every_multiple(largest_alike(of_base, MEASURED_ALIKE))
        if group.empty:
            continue
        shares = group.pivot_table(index="seed", columns="multiple", values="has", aggfunc="mean").dropna()
        grain = 1 / group["name"].nunique()  # one matrix
        for multiple in shares.columns:
            share, at = (
                clipped(mean_interval(shares[multiple], grain=grain), 0, 1),
                group[group["multiple"] == multiple],
            )
            rows.append(
                [
                    base, multiple, share.estimate, share.low, share.high, float(at["predicted"].mean()),
                    at["name"].nunique(), len(shares),
                ]
            )  # fmt: skip
        smallest, largest = (float(shares.columns[i]) if len(shares.columns) else math.nan for i in (0, -1))
        if len(shares.columns) > 1:
            rise = clipped(mean_interval(shares[largest] - shares[smallest], grain=grain), -1, 1)
            agreement = float((group["has"] == group["predicted"]).mean())
            records.append(Mechanism(str(base), rise, smallest, largest, agreement))
    return records, pd.DataFrame(rows, columns=columns)


def _with_every_multiple(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the matrices that were measured at every multiple, so that a rise is one of the same matrices."""
    multiples = rows.groupby("name")["multiple"].nunique()
    return rows[rows["name"].isin(multiples.index[multiples == rows["multiple"].nunique()])]
