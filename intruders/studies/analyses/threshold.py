"""Does the predicted critical scale separate matrices with and without intruders?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ...evaluation.bootstrap import Interval
from ..findings import Effect, Finding
from ..results import Results
from ..statistics import auc_interval, clipped, mean_interval, spearman
from .runs import MEASURED_ALIKE, complete, finished, noted_complete, numbers, seed_table, seeds_in, strata
from .words import decide, effect, missing, said, seeds_said

QUESTION = "Does the predicted critical scale separate matrices with and without intruders?"
CLAIM = (
    "From the spectrum of the base alone the spiked-matrix threshold foretells which updates are too large for their "
    "matrix, better than chance (arXiv 2607.23711, which found its scales within a factor of two on 82 % of layers)."
)
NEEDED = (
    "this needs finished, audited runs with `measure: critical_scale`, where some matrices have intruders "
    "and some "
    "have none"
)
LIMITS = (
    (
        "The prediction takes the update's largest singular value and nothing of its directions; a trained "
        "update "
        "follows the base more than a random one."
    ),
    (
        "Scales within a factor of two and their rank correlation are over matrices whose scale was found "
        "by the "
        "search; it ends at 64 times the predicted one."
    ),
    "Intervals are over runs: matrices of one run are not independent.",
)


def analyse(results: Results) -> Finding:
    """AUC of the predicted scale for matrices with intruders, agreement of the rule "predicted <= 1", share within a
    factor of two, rank correlation."""
    runs = finished(results.runs)
    known = results.matrices.drop(columns=["kind"]).merge(
        runs[["run_id", "base", "task", "described", "setting", "seed", *MEASURED_ALIKE]], on="run_id"
    )
    for column in ("predicted_scale", "critical_scale", "intruders"):
        known[column] = numbers(known, column)
    known = known[known["predicted_scale"].notna() & known["intruders"].notna()]
    known["ratio"] = known["predicted_scale"] / known["critical_scale"].where(
        lambda scale: np.isfinite(scale)
    )
    verdicts: list[str] = []
    notes: list[str] = []
    claims: list[Interval] = []
    rows = []
    leading: list[Effect] = []
    others: list[Effect] = []
    seeds = 0
    for stratum in strata(known, MEASURED_ALIKE, notes):
        matrices = stratum.runs
        has = matrices["intruders"] > 0
        score = -np.log(matrices["predicted_scale"].clip(lower=1e-300))
        found = auc_interval(score, has.tolist(), matrices["run_id"].tolist())
        within, correlation = _agreement(matrices, stratum.label, notes)
        rule = ((matrices["predicted_scale"] <= 1) == has).groupby(matrices["run_id"]).mean()
        rows.append(
            {
                "base": stratum.base,
                "task": stratum.task,
                "auc": found.estimate,
                "auc_low": found.low,
                "auc_high": found.high,
                "rule_agrees": float(rule.mean()),
                "with_intruders": int(has.sum()),
                "foretold_of_these": float((matrices.loc[has, "predicted_scale"] <= 1).mean()),
                "without": int((~has).sum()),
                "foretold_none_of_these": float((matrices.loc[~has, "predicted_scale"] > 1).mean()),
                "within_factor_two": within.estimate,
                "within_low": within.low,
                "within_high": within.high,
                "rank_correlation": correlation.estimate,
                "correlation_low": correlation.low,
                "correlation_high": correlation.high,
                "runs": matrices["run_id"].nunique(),
                "seeds": seeds_in(matrices),
            }
        )
        if math.isnan(found.estimate):
            notes.append(
                f"{stratum.label}: {'all' if has.all() else 'none'} of the {len(matrices)} matrices have "
                "intruders, so "
                "that there is nothing to separate"
            )
            continue
        seeds = max(seeds, seeds_in(matrices))
        above = Interval(found.estimate - 0.5, found.low - 0.5, found.high - 0.5)
        claims.append(above)
        leading.append(effect(f"{stratum.label}: AUC of the predicted scale, above the 0.5 of chance", above))
        others.append(effect(f"{stratum.label}: share of matrices predicted within a factor of two", within))
        others.append(
            effect(f"{stratum.label}: rank correlation of predicted and measured scale", correlation)
        )
        verdicts.append(
            f"{stratum.label}: AUC {said(found, signed=False)} over {matrices['run_id'].nunique()} runs, "
            f"{100 * within.estimate:.0f} % within a factor of two, rank correlation {said(correlation)} "
            f"({seeds_said(seeds_in(matrices))})"
        )
    table = pd.DataFrame(rows)
    if not leading:
        return missing("threshold", QUESTION, CLAIM, NEEDED, notes)
    shown, opening = decide(claims, seeds)
    return Finding(
        name="threshold",
        question=QUESTION,
        claim=CLAIM,
        verdict=opening + "; ".join(verdicts),
        shown=shown,
        effects=leading + others,
        seeds=seeds,
        runs=known["run_id"].nunique(),
        tables={"Agreement": table, "Matrices": _points(known)},
        notes=[*notes, *LIMITS],
    )


def _agreement(matrices: pd.DataFrame, label: str, notes: list[str]) -> tuple[Interval, Interval]:
    """Share within a factor of two and rank correlation, means over runs with intervals over seeds."""
    both = matrices.dropna(subset=["ratio"])
    rows = []
    for run_id, group in both.groupby("run_id"):
        rows.append(
            {
                "run_id": run_id,
                "seed": group["seed"].iloc[0],
                "setting": group["setting"].iloc[0],
                "within": float(group["ratio"].between(0.5, 2).mean()),
                "correlation": spearman(
                    group["predicted_scale"], group["critical_scale"], group["name"].tolist()
                ).estimate,
            }
        )
    frame = pd.DataFrame(rows, columns=["run_id", "seed", "setting", "within", "correlation"])
    # One matrix of one seed: a mean over settings moves by one of the seed's matrices at least.
    grain = frame["seed"].nunique() / max(1, len(both))
    table = noted_complete(seed_table(frame, "within"), f"{label}, share within a factor of two", notes)
    within = mean_interval(table.mean(axis=1), grain=grain)
    correlation = mean_interval(complete(seed_table(frame, "correlation")).mean(axis=1))
    return clipped(within, 0, 1), clipped(correlation, -1, 1)


def _points(known: pd.DataFrame) -> pd.DataFrame:
    columns = [
        "base", "task", "described", "seed", "run_id", "name", "intruders", "predicted_scale", "critical_scale", "ratio"
    ]  # fmt: skip
    return known[columns].rename(columns={"described": "setting", "name": "matrix"}).reset_index(drop=True)
