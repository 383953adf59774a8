"""Prints the effects that research/examples/usual-settings.yaml names in advance, from the folder of the study.

python -m benchmarks.usual_settings runs/usual-settings
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.study_documents import loss_of_completions, mean_loss, right_answers, runs_with_losses
from intruders.measures.intervals import Interval, mean_interval

PIQA, INSTRUCTIONS = "data/piqa", "data/instructions"


def main(folder: Path) -> None:
    results, own, bases = runs_with_losses(folder)
    runs = results.runs[results.runs["run_id"].isin(own)]
    for (method, epochs), group in runs.groupby(["method", "epochs"]):
        print(f"\n{method}, {epochs:g} epochs, seeds {', '.join(map(str, group['seed']))}")
        pairs = [(own[run], bases[run]) for run in group["run_id"]]
        learned = [
            loss_of_completions(tuned, INSTRUCTIONS) - loss_of_completions(base, INSTRUCTIONS)
            for tuned, base in pairs
        ]
        print(f"  held-out responses, nats per token: {said(mean_interval(learned))}")
        kept = [pair for pair, change in zip(pairs, learned, strict=True) if change < 0]
        if not kept:
            print("  no run lowered the loss of held-out responses: left out")
            continue
        changes = 100.0 * np.array(
            [right_answers(tuned, PIQA).astype(float) - right_answers(base, PIQA) for tuned, base in kept]
        )
        print(f"  PIQA, base {100 * right_answers(kept[0][1], PIQA).mean():.1f} %")
        print(f"  PIQA, change in points, over seeds: {said(mean_interval(changes.mean(axis=1)))}")
        print("  PIQA, change in points, over items: [{:+.3f}, {:+.3f}]".format(*over_items(changes)))
        for corpus in ("c4", "wikitext-2"):
            rises = [mean_loss(tuned, corpus) - mean_loss(base, corpus) for tuned, base in kept]
            print(f"  {corpus}, rise in nats per token: {said(mean_interval(rises))}")


def over_items(changes: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds, items resampled together in all of them."""
    of_items = changes.mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(of_items), size=(2000, len(of_items)))
    low, high = np.quantile(of_items[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def said(value: Interval) -> str:
    return f"{value.estimate:+.3f}{value.ends('+.3f')}, n = {value.n}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
