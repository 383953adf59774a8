"""Opinions on the adapters of a fleet: which differ from the others, and which servers may refuse."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

OPINIONS = ("for_hosts", "unusual", "unusual_in")
# Columns in which a model may be unusual, and whether their logarithm is compared.
_COMPARED = {
    "intruder_share": False,
    "energy_share": False,
    "update_relative_median": True,
    "update_relative_max": True,
    "frobenius": True,
    "effective_rank": True,
    "stable_rank": True,
}
# Of a normal distribution the median absolute deviation times this is the standard deviation.
_MAD = 1.4826
# And the mean absolute deviation times this, sqrt(pi / 2).
_MEAN_AD = 1.2533
_LEAST_TO_COMPARE = 5
# Relative deviations up to this are rounding: one adapter at several scales has one effective rank, to the last digits.
_ROUNDING = 1e-6


def with_opinions(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of a fleet with the columns ``for_hosts``, ``unusual`` and ``unusual_in``."""
    unusual = _unusual(table)
    for_hosts = pd.Series([_for_hosts(row) for row in table.to_dict("records")], table.index, dtype=object)
    return table.assign(for_hosts=for_hosts, **unusual)


def _for_hosts(row: dict[Hashable, Any]) -> str | None:
    """Return what servers of many adapters refuse or ignore; see docs/reference/fleet.md."""
    reasons = []
    if not pd.isna(row["method"]) and row["method"] != "lora":
        reasons.append(f"no plain LoRA ({row['method']})")
    if not pd.isna(row["saved_in_full"]) and row["saved_in_full"]:
        reasons.append("modules saved in full")
    pairs = [(row[f"{name}_min"], row[f"{name}_max"]) for name in ("rank", "scale")]
    if any(not pd.isna(least) and least != most for least, most in pairs):
        reasons.append("ranks or scales that differ by module")
    return "; ".join(reasons) or None


def _unusual(table: pd.DataFrame) -> pd.DataFrame:
    """Return the largest robust distance from the fleet's median, ``|x - median| / (1.4826 MAD)``, and its column.

    Where most adapters have one value, such as no intruders, the median absolute deviation (MAD) is 0 or rounding. The
    spread is then 1.2533 times the mean absolute deviation (Iglewicz and Hoaglin 1993). Where that is no more, the
    column is not compared.
    """
    nothing = pd.DataFrame({"unusual": np.nan, "unusual_in": None}, table.index)
    judged = table["status"].eq("audited") & table["matrices"].fillna(0).gt(0)
    if judged.sum() < _LEAST_TO_COMPARE:
        return nothing
    distances = {}
    for name, by_logarithm in _COMPARED.items():
        values = table.loc[judged, name].astype(float)
        if by_logarithm:
            values = pd.Series(np.log(values.where(values > 0)), values.index)
        deviation = (values - values.median()).abs()
        rounding = _ROUNDING if by_logarithm else _ROUNDING * abs(values.median())
        if deviation.median() > rounding:
            distances[name] = deviation / (_MAD * deviation.median())
        elif deviation.mean() > rounding:
            distances[name] = deviation / (_MEAN_AD * deviation.mean())
    if not distances:
        return nothing
    frame = pd.DataFrame(distances).fillna(0.0)
    columns = {"unusual": frame.max(axis=1), "unusual_in": frame.idxmax(axis=1)}
    return pd.DataFrame(columns).reindex(table.index)
