"""Prints the effects that research/examples/equal-skill.yaml names in advance, from the folder of the study.

    python -m benchmarks.equal_skill runs/equal-skill

As long as only the choosing seeds are there, it prints the rates to report.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.study_documents import loss_of_completions, mean_loss, runs_with_losses
from benchmarks.usual_settings import said
from intruders.measures.intervals import mean_interval

SKILL = {"word-problems": 0.02, "sst2-prompts": 0.40}  # task loss in nats per token of the answer
CHOOSING = (10, 11)


def main(folder: Path) -> None:
    results, own, bases = runs_with_losses(folder)
    runs = results.runs[results.runs["run_id"].isin(own)]
    runs = runs.assign(
        on=[next(name for name in SKILL if name in str(task)) for task in runs["task"]],
        forgotten=[mean_loss(own[run], "pydoc") - mean_loss(bases[run], "pydoc") for run in runs["run_id"]],
    )
    runs["task_loss"] = [
        loss_of_completions(own[run], f"data/{on}")
        for run, on in zip(runs["run_id"], runs["on"], strict=True)
    ]
    rows = [
        (on, method, lr, seed, at_skill(group, SKILL[on]))
        for (on, method, lr, seed), group in runs.groupby(["on", "method", "lr", "seed"])
    ]
    table = pd.DataFrame(rows, columns=["on", "method", "lr", "seed", "forgotten"])
    print(table.pivot_table(index=["on", "method", "lr"], columns="seed", values="forgotten", dropna=False))
    for on, of_task in table.groupby("on"):
        print(f"\n{on}, at a task loss of {SKILL[on]} nats per token")
        by_method = {}
        for method, of_method in of_task.groupby("method"):
            rate = chosen_rate(of_method)
            print(f"  {method}: {'no rate has both choosing seeds' if rate is None else f'rate {rate:g}'}")
            reported = of_method[(of_method["lr"] == rate) & ~of_method["seed"].isin(CHOOSING)]
            by_method[method] = reported.set_index("seed")["forgotten"]
        paired = (by_method["lora"] - by_method["full"]).dropna() if len(by_method) == 2 else pd.Series()
        if len(paired) > 1:
            print(f"  LoRA minus full, nats per token: {said(mean_interval(paired.to_numpy()))}")


def at_skill(runs: pd.DataFrame, skill: float) -> float:
    """Return what is forgotten where the task loss first crosses ``skill`` over the steps; NaN if it never does."""
    runs = runs.sort_values("steps")
    return crossing(np.log(runs["task_loss"]).tolist(), runs["forgotten"].tolist(), float(np.log(skill)))


def crossing(at: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """Return the value, by straight lines, where ``at`` first falls to ``wanted``.

    >>> crossing([0.0, -2.0, -4.0], [0.0, 0.1, 0.3], -3.0)
    0.2
    """
    for index in range(1, len(at)):
        before, after = at[index - 1], at[index]
        if before > wanted >= after:
            share = (before - wanted) / (before - after)
            return values[index - 1] + share * (values[index] - values[index - 1])
    return float("nan")


def chosen_rate(runs: pd.DataFrame) -> float | None:
    """Return the rate that forgets least over the choosing seeds, among those that have both."""
    chosen = runs[runs["seed"].isin(CHOOSING)].dropna().groupby("lr")["forgotten"].agg(["mean", "size"])
    complete = chosen[chosen["size"] == len(CHOOSING)]
    return None if complete.empty else float(complete["mean"].idxmin())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
