"""Two mechanisms: LoRA's product against an update trained densely, and a random rank-one term without any training.

The former are compared at equal Frobenius norm of the update, from the audits during training. The latter is added to
real base matrices, at growing sizes.
"""

import numpy as np
import pandas as pd

from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.claim import Where
from .shared.evidence import Evidence
from .shared.seed_tables import complete
from .shared.statistics import clipped
from .shared.strata import MEASURED_ALIKE, Stratum, audits_during, finished, largest_alike, points_of
from .shared.words import said

# Norms at which the two are compared, evenly spaced over those that both reach.
_POINTS = 9


def add_at_equal_norm(evidence: Evidence, stratum: Stratum, traces: pd.DataFrame) -> bool:
    """Add every LoRA run compared with every full run of its seed; return whether there are such pairs.

    Both traces are summed over the matrices that they share: the norm ||D||_F and the intruders per 100 vectors of each
    audit. Between audits they are interpolated linearly in the norm; nothing is put outside the norms that both reach.
    The mean difference over those norms is averaged over pairs of a seed, with Student's interval over seeds.
    """
    known = traces.merge(stratum.runs[["run_id", "method", "seed", "setting"]], on="run_id")
    lora, full = known[known["method"] == "lora"], known[known["method"] == "full"]
    if lora.empty or full.empty:
        return False
    rows = []
    for (seed, setting, _), lora_trace in lora.groupby(["seed", "setting", "run_id"]):
        for _, full_trace in full[full["seed"] == seed].groupby("run_id"):
            shared = set(lora_trace["name"]) & set(full_trace["name"])
            value = _mean_difference(
                *(audits_during(trace[trace["name"].isin(shared)]) for trace in (lora_trace, full_trace))
            )
            if value is not None:
                rows.append({"seed": seed, "setting": setting, "value": value})
    frame = pd.DataFrame(rows, columns=["seed", "setting", "value"])
    table = complete(frame.pivot_table(index="seed", columns="setting", values="value", aggfunc="mean"))
    audits = audits_during(lora)
    vectors = audits["vectors"].median()
    difference = mean_interval(table.mean(axis=1), grain=100 / vectors if vectors > 0 else 0.0)
    if not difference.n:
        of_lora, of_full = (
            "{:.3g} to {:.3g}".format(*_reached(each)) for each in (audits, audits_during(full))
        )
        evidence.notes.append(
            f"{stratum.label}: LoRA and full cannot be compared at equal norm of the update: seed by seed, LoRA's "
            f"({of_lora}) and full's ({of_full}) do not overlap"
        )
        return False
    what = "LoRA minus full at equal norm of the update, intruders per 100 vectors"
    phrase = f"intruders per 100 vectors at equal norm of the update, LoRA minus full fine-tuning, {said(difference)}"
    evidence.add(stratum.on, what, difference, phrase=phrase)
    return True


def paths(runs: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Return norm and intruders of every audit of LoRA and full runs, for the figure of the comparison."""
    compared = runs[runs["method"].isin(["lora", "full"])]
    named = points_of(compared, ["base", "task", "method", "described", "seed", "run_id"])
    norms = audits_during(traces)[["run_id", "update_frobenius", "per_100"]]
    known = named.merge(norms, on="run_id").rename(columns={"per_100": "intruders_per_100_vectors"})
    return known.sort_values([*named, "update_frobenius"], ignore_index=True)


def _mean_difference(lora: pd.DataFrame, full: pd.DataFrame) -> float | None:
    """Return the mean of LoRA's minus full's over the norms that both reach; None without such norms."""
    if lora.empty or full.empty:
        return None
    lows, highs = zip(_reached(lora), _reached(full), strict=True)
    low, high = max(lows), min(highs)
    if low > high:
        return None
    norms = np.linspace(low, high, _POINTS)
    ordered = (audits.sort_values("update_frobenius") for audits in (lora, full))
    lora_counts, full_counts = (
        np.interp(norms, each["update_frobenius"], each["per_100"]) for each in ordered
    )
    return float((lora_counts - full_counts).mean())


def _reached(audits: pd.DataFrame) -> tuple[float, float]:
    """Return the least and the greatest norm."""
    return float(audits["update_frobenius"].min()), float(audits["update_frobenius"].max())


def add_random_terms(evidence: Evidence, results: Results) -> pd.DataFrame:
    """Add each base's rise of the share of matrices with an intruder, from the smallest to the largest multiple.

    Returns that share by multiple, measured and predicted.
    """
    drawn = finished(results.runs, "random-rank-one")
    known = results.mechanism.merge(drawn[["run_id", "base", "seed", *MEASURED_ALIKE]], on="run_id")
    known["has"] = known["intruders"] > 0
    known["predicted"] = known["predicted_multiple"] <= known["multiple"]
    rows: list[dict[str, object]] = []
    for base, of_base in known.groupby("base"):
        group = _with_every_multiple(largest_alike(of_base, MEASURED_ALIKE))
        if group.empty:
            continue
        shares = group.pivot_table(index="seed", columns="multiple", values="has", aggfunc="mean").dropna()
        grain = 1 / group["name"].nunique()  # one matrix
        for multiple in shares.columns:
            at = group[group["multiple"] == multiple]
            share = clipped(mean_interval(shares[multiple], grain=grain), 0, 1)
            rows.append(
                {
                    "base": base,
                    "multiple": multiple,
                    **share.cells("share_with_intruders", "low", "high"),
                    "predicted_share": float(at["predicted"].mean()),
                    "matrices": at["name"].nunique(),
                    "seeds": len(shares),
                }
            )
        if len(shares.columns) > 1:
            smallest, largest = float(shares.columns[0]), float(shares.columns[-1])
            rise = clipped(mean_interval(shares[largest] - shares[smallest], grain=grain), -1, 1)
            sizes = f"from {smallest:g} to {largest:g} times ||W0||"
            what = f"share of matrices with an intruder, random rank-one term {sizes}"
            phrase = (
                f"a random rank-one term alone, {sizes}, changes the share of matrices with intruders by "
            )
            evidence.add(Where(str(base)), what, rise, phrase=phrase + said(rise))
    return pd.DataFrame(rows)


def _with_every_multiple(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the matrices that were measured at every multiple, so that a rise is one of the same matrices."""
    multiples = rows.groupby("name")["multiple"].nunique()
    return rows[rows["name"].isin(multiples.index[multiples == rows["multiple"].nunique()])]
