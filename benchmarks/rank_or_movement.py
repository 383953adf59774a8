"""Prints the effects that research/examples/rank-or-movement-topics.yaml names in advance, from its published tables.

    python -m benchmarks.rank_or_movement [docs/results/data/rank-or-movement-topics]

The slope is that of intruders per 100 vectors over log2 of the rank, per seed, with Student's 95 % interval over seeds.
All runs count: the steps are equal by design, and the accuracies are not. A seed without all ranks is left out of a
slope.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from intruders.measures.intervals import Interval, mean_interval
from intruders_research.claims.shared.statistics import slope

DATA = Path(__file__).parents[1] / "docs" / "results" / "data" / "rank-or-movement-topics"
# Rank 1 with alpha = 2r is in both.
RULES = {
    "alpha = 2r, lr / r": lambda runs: runs["alpha_value"] == 2 * runs["rank"],
    "constant alpha and lr": lambda runs: runs["alpha_value"] == 2,
}
MEASURES = {
    "per_100": "intruders per 100 vectors",
    "a_movement": "movement of A",
    "update_frobenius": "update norm",
    "effective_rank": "effective rank",
    "accuracy": "accuracy",
}


def main(folder: Path) -> None:
    runs = pd.read_parquet(folder / "runs.parquet")
    runs = runs[runs["status"] == "finished"]
    runs = runs.assign(
        per_100=100 * runs["intruders"] / runs["vectors"],
        alpha_value=[
            2.0 * rank if alpha == "2r" else float(alpha)
            for alpha, rank in zip(runs["alpha"], runs["rank"], strict=True)
        ],
    )
    print(f"{len(runs)} runs, {runs['seed'].nunique()} seeds\n\nmeans over seeds")
    columns = [name for name in MEASURES if name in runs]
    for rule, belongs in RULES.items():
        for method in ("lora", "b-only"):
            own = runs[belongs(runs) & (runs["method"] == method)]
            means = own.groupby("rank")[columns].mean()
            print(
                f"\n{method}, {rule}\n{means.rename(columns=MEASURES).to_string(float_format='{:.3g}'.format)}"
            )
    print("\nchange per doubling of the rank, both factors trained")
    for rule, belongs in RULES.items():
        own = runs[belongs(runs) & (runs["method"] == "lora")]
        for column in columns:
            print(f"{rule}, {MEASURES[column]}: {said(per_doubling(own, column))}")
    print("\nB alone minus both factors, intruders per 100 vectors, paired by seed")
    pairs = runs.pivot_table(
        index=["alpha_value", "rank", "lr", "seed"], columns="method", values="per_100"
    ).dropna()
    differences = (pairs["b-only"] - pairs["lora"]).groupby(["alpha_value", "rank", "lr"])
    for (alpha, rank, rate), values in differences:
        print(f"rank {rank:g}, alpha {alpha:g}, lr {rate:g}: {said(mean_interval(values.to_numpy()))}")


def per_doubling(runs: pd.DataFrame, column: str) -> Interval:
    """The mean over seeds of the least-squares slope on log2 of the rank."""
    table = runs.pivot_table(index="seed", columns="rank", values=column).dropna()
    doublings = np.log2(table.columns.to_numpy(dtype=float))
    return mean_interval([slope(doublings, row) for row in table.to_numpy()])


def said(value: Interval) -> str:
    return f"{value.estimate:+.3f}{value.ends('+.3f')}, n = {value.n}"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
