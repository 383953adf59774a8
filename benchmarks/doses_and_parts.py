"""Shows whether the doses that healing learned follow from where the forgetting sits.

    python -m benchmarks.doses_and_parts ATTRIBUTION HEALING ...

ATTRIBUTION is the file that `intruders attribute --task TASK --json` wrote, HEALING the `heal.json` of the healed model
of the same base and tuned one; further pairs may follow. The correlation is Spearman's over matrices, with a 95 %
bootstrap interval over matrices. "Forgotten per nat learned" leaves out the matrices that earned nothing of the task.
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from intruders.experiments.attribution import Attribution
from intruders.experiments.healing import Healing

_RESAMPLES = 2000


def main(files: list[str]) -> None:
    if not files or len(files) % 2:
        sys.exit(f"{len(files)} files were given; pass an attribution and a healing of each model")
    for attribution, healing in zip(files[::2], files[1::2], strict=True):
        compare(Attribution.load(attribution), Healing.load(healing))


def compare(attribution: Attribution, healing: Healing) -> None:
    """Print the correlations of one model's doses with its matrices' parts."""
    text, task = attribution.text, attribution.task
    if task is None or set(healing.doses) != {share.name for share in attribution.matrices}:
        sys.exit(
            f"{attribution.tuned} and {healing.tuned} have not the same matrices, or the parts have no task"
        )
    table = pd.DataFrame(
        [
            {
                "kind": share.name.removesuffix(".weight").rsplit(".", 1)[-1],
                "dose": float(np.mean(healing.doses[share.name])),
                "part of the forgetting": share.parts[text].estimate,
                "part of the learning": -share.parts[task].estimate,
            }
            for share in attribution.matrices
        ]
    )
    table["forgotten per nat learned"] = table["part of the forgetting"] / table[
        "part of the learning"
    ].where(table["part of the learning"] > 0)
    print(f"\n{attribution.tuned}: {len(table)} matrices")
    for rise in attribution.rises:
        missed = rise.total / rise.rise.estimate - 1
        print(
            f"  {rise.name}: rise {rise.rise.estimate:+.4f} nats per token, parts sum to {rise.total:+.4f} "
            f"({missed:+.2%}, {rise.nodes} nodes)"
        )
    for name in ("part of the forgetting", "part of the learning", "forgotten per nat learned"):
        both = table[["dose", name]].dropna().to_numpy()
        low, high = np.quantile(_resampled(both), [0.025, 0.975])
        print(
            f"  dose and {name}: {_spearman(both):+.2f} [{low:+.2f}, {high:+.2f}] over {len(both)} matrices"
        )
    means = table.groupby("kind")[["dose", "part of the forgetting", "part of the learning"]].agg("mean")
    print(means.sort_values("dose").to_string(float_format=lambda value: f"{value:.4f}"))


def _spearman(both: np.ndarray) -> float:
    return float(spearmanr(both[:, 0], both[:, 1]).statistic)


def _resampled(both: np.ndarray) -> list[float]:
    generator = np.random.default_rng(0)
    return [_spearman(both[generator.integers(len(both), size=len(both))]) for _ in range(_RESAMPLES)]


if __name__ == "__main__":
    main(sys.argv[1:])
