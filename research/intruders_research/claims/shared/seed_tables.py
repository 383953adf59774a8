"""Tables of seeds by settings without gaps, so that no seed is compared by other settings than the next."""

import itertools
import statistics
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from .strata import Stratum

Mask = npt.NDArray[np.bool_]
# Seeds of which every choice is looked at for the part of a table without gaps.
_MOST_SEEDS = 12


def seed_table(runs: pd.DataFrame, column: str, by: str = "setting") -> pd.DataFrame:
    """Return a column's mean by seed (rows) and setting, or another column (columns)."""
    values = pd.DataFrame({"seed": runs["seed"], "by": runs[by], "value": runs[column]})
    return values.dropna().pivot_table(index="seed", columns="by", values="value", aggfunc="mean")


def against_full(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of LoRA's settings (columns) minus the mean of full fine-tuning, by seed (rows)."""
    lora = seed_table(runs[runs["method"] == "lora"], column)
    full = complete(seed_table(runs[runs["method"] == "full"], column)).mean(axis=1)
    return lora.sub(full, axis=0).dropna(how="all")


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """Return the largest part of a table without gaps, so that all seeds are compared by the same settings.

    Two seeds or more go before one with more settings, since one has no interval. Of up to a dozen seeds every choice
    is looked at; of more, those that leave the settings with the most seeds.
    """
    # Every choice, since a study that is not finished yet would lose its new seeds to a simpler rule.
    known = table.notna().to_numpy()
    if known.all():
        return table
    parts = [(rows, columns) for rows, columns in _parts_without_gaps(known) if len(rows) and columns.any()]
    if not parts:
        return table.dropna()
    rows, columns = max(
        parts, key=lambda part: (min(len(part[0]), 2), len(part[0]) * part[1].sum(), len(part[0]))
    )
    return table.iloc[rows, np.flatnonzero(columns)]


def _parts_without_gaps(known: Mask) -> Iterator[tuple[npt.NDArray[np.intp], Mask]]:
    """Yield row positions and a mask of the columns without gaps in them. ``known``: (seeds, settings)."""
    seeds = len(known)
    if seeds <= _MOST_SEEDS:
        for size in range(1, seeds + 1):
            for chosen in itertools.combinations(range(seeds), size):
                rows = np.array(chosen)
                yield rows, np.all(known[rows], axis=0)
    else:
        counts = known.sum(axis=0)
        for least in sorted(set(counts)):
            columns = counts >= least
            yield np.flatnonzero(known[:, columns].all(axis=1)), columns


def noted_complete(table: pd.DataFrame, what: str) -> tuple[pd.DataFrame, list[str]]:
    """Return :func:`complete`, and a note if something was left out."""
    part = complete(table)
    left_out = int(table.notna().to_numpy().sum()) - part.size
    note = f"{what}: {left_out} of {part.size + left_out} runs are left out, since not every seed has their setting"
    return part, [note] if left_out else []


def one_in_100(runs: pd.DataFrame, settings: int = 1) -> float:
    """Return the grain of a mean over settings: one intruder in one of them, per 100 vectors."""
    vectors = runs["vectors"].median()
    return 100 / float(vectors) / max(1, settings) if vectors > 0 else 0.0


def seeds_in(runs: pd.DataFrame) -> int:
    """Count the different seeds of the runs."""
    return int(runs["seed"].nunique())


def seeds_of_settings(runs: pd.DataFrame) -> int:
    """Return how many seeds most of the settings have, of runs whose settings are compared with one another.

    A study goes seed by seed: the first run of the next seed says nothing yet about what another seed would change.
    """
    return 0 if runs.empty else statistics.median_low(runs.groupby("setting")["seed"].nunique())


def on_shared_matrices(stratum: Stratum, matrices: pd.DataFrame) -> Stratum:
    """Count ``per_100`` on the matrices that all runs have; add a note if those are fewer.

    An adapter of some modules leaves the others unchanged, and a full fine-tuning changes all: their shares are of
    different matrices.
    """
    runs = stratum.runs
    known = matrices[matrices["run_id"].isin(runs["run_id"])]
    of_each = known.groupby("run_id")["name"].agg(set)
    if len(of_each) < 2 or len(set(map(frozenset, of_each))) == 1:
        return stratum
    shared = set.intersection(*of_each)
    sums = known[known["name"].isin(shared)].groupby("run_id")[["intruders", "vectors"]].sum()
    per_100 = 100 * sums["intruders"] / sums["vectors"]
    return stratum.narrowed(
        runs.assign(per_100=runs["run_id"].map(per_100), vectors=runs["run_id"].map(sums["vectors"])),
        f"{stratum.label}: intruders are counted on the {len(shared)} matrices that all of these runs changed, of "
        f"{len(set.union(*of_each))}",
    )
