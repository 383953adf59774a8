"""LoRA's product against the same update trained densely, at equal Frobenius norm, from the audits during training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from intruders.measures.intervals import Interval, mean_interval

from .shared.seed_tables import complete

# Norms at which the two are compared, evenly spaced over those that both reach.
_POINTS = 9


@dataclass(frozen=True)
class DenseComparison:
    """Intruders per 100 vectors of LoRA minus those of full fine-tuning at equal norm of the update."""

    difference: Interval
    lora_norms: tuple[float, float]
    full_norms: tuple[float, float]

    @property
    def overlap(self) -> bool:
        return bool(self.difference.n)


def compare_at_equal_norm(runs: pd.DataFrame, traces: pd.DataFrame) -> DenseComparison | None:
    """Compare every LoRA run with every full run of its seed; None if one kind has no traces.

    Both traces are summed over the matrices that they share: the norm ||D||_F and the intruders per 100 vectors of each
    audit. Between audits they are interpolated linearly in the norm; nothing is put outside the norms that both reach.
    The mean difference over those norms is averaged over pairs of a seed, with Student's interval over seeds.
    """
    if traces.empty or runs.empty:
        return None
    known = traces.merge(runs[["run_id", "method", "seed", "setting"]], on="run_id")
    lora, full = known[known["method"] == "lora"], known[known["method"] == "full"]
    if lora.empty or full.empty:
        return None
    rows = []
    for seed in sorted(set(lora["seed"]) & set(full["seed"])):
        for (setting, _), lora_trace in lora[lora["seed"] == seed].groupby(["setting", "run_id"]):
            for _, full_trace in full[full["seed"] == seed].groupby("run_id"):
                shared = set(lora_trace["name"]) & set(full_trace["name"])
                value = _mean_difference(_path(lora_trace, shared), _path(full_trace, shared))
                if value is not None:
                    rows.append({"seed": seed, "setting": setting, "value": value})
    frame = pd.DataFrame(rows, columns=["seed", "setting", "value"])
    table = complete(frame.pivot_table(index="seed", columns="setting", values="value", aggfunc="mean"))
    vectors = lora["vectors"].groupby([lora["run_id"], lora["step"]]).sum().median()
    difference = mean_interval(table.mean(axis=1), grain=100 / vectors if vectors > 0 else 0.0)
    return DenseComparison(difference, _norms(lora), _norms(full))


def paths(runs: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Return norm and intruders of every audit of LoRA and full runs, for the figure of the comparison."""
    of_run = ["base", "task", "method", "setting", "seed", "run_id"]
    named = runs.drop(columns="setting").rename(columns={"described": "setting"})[of_run]
    known = traces.merge(named[named["method"].isin(["lora", "full"])], on="run_id")
    known["squares"] = known["frobenius"] ** 2
    sums = known.groupby([*of_run, "step"], as_index=False)[["squares", "intruders", "vectors"]].sum()
    sums["update_frobenius"] = np.sqrt(sums["squares"].astype(float))
    sums["intruders_per_100_vectors"] = 100 * sums["intruders"] / sums["vectors"]
    measured = ["update_frobenius", "intruders_per_100_vectors"]
    return sums.sort_values([*of_run, measured[0]], ignore_index=True)[[*of_run, *measured]]


Path = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _path(trace: pd.DataFrame, names: set[str]) -> Path:
    """Return (norms, intruders per 100 vectors) of the audits, by ascending norm."""
    kept = trace[trace["name"].isin(names)]
    squares = kept.assign(squares=kept["frobenius"] ** 2)
    sums = squares.groupby("step")[["squares", "intruders", "vectors"]].sum()
    norms = np.sqrt(sums["squares"].to_numpy(dtype=np.float64))
    shares = (100 * sums["intruders"] / sums["vectors"]).to_numpy(dtype=np.float64)
    order = np.argsort(norms)
    return norms[order], shares[order]


def _mean_difference(lora: Path, full: Path) -> float | None:
    """Return the mean of LoRA's minus full's over the norms that both reach; None without such norms."""
    if len(lora[0]) == 0 or len(full[0]) == 0:
        return None
    low, high = max(lora[0][0], full[0][0]), min(lora[0][-1], full[0][-1])
    if low > high:
        return None
    norms = np.linspace(low, high, _POINTS)
    return float((np.interp(norms, *lora) - np.interp(norms, *full)).mean())


def _norms(traces: pd.DataFrame) -> tuple[float, float]:
    totals = [_path(trace, set(trace["name"]))[0] for _, trace in traces.groupby("run_id")]
    return min(float(norms[0]) for norms in totals), max(float(norms[-1]) for norms in totals)
