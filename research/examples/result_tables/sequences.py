"""The tables of tasks in sequence."""

from __future__ import annotations

from typing import Any

import pandas as pd

from intruders.studies.results import Results
from intruders_research.claims import sequence

from .published_data import NAMES, finding_of, is_setting, settings_in
from .words import lacking_of, markdown, scientific


def sequence_verdicts() -> list[str]:
    """Every effect of the sequences with its verdict, the order of most runs first."""
    answers = sorted(finding_of("sequence", "sequence")["answers"], key=_is_second)
    rows = []
    before = ""
    for answer in answers:
        order = "second" if _is_second(answer) else "first"
        where = f"{order}, {answer['where'].split()[-2]} rate"
        is_intruders = answer["what"].startswith("intruders")
        numbers = [f"{answer[name]:+.{2 if is_intruders else 1}f}" for name in ("estimate", "low", "high")]
        what = answer["what"].removesuffix(", alpha = 2r, a rate for each rank")
        rows.append(
            [
                "" if where == before else where,
                f"*{answer['decision']}*{lacking_of(answer)}",
                f"{what}: {numbers[0]} [{numbers[1]}, {numbers[2]}]; {answer['expected']}",
                str(answer["seeds"]),
            ]
        )
        before = where
    return markdown(
        ["order, each method at its", "verdict", "effect (95 % CI); the claim expects", "seeds"], rows
    )


def _is_second(answer: dict[str, Any]) -> bool:
    """Whether an effect is of the order that does not begin with SST-2."""
    return "then sst2" in answer["where"]


def sequence_runs(results: Results, order: str) -> list[str]:
    """Points forgotten, mean over the earlier tasks, and intruders after each stage, by setting and seed."""
    of_order = results.runs[(results.runs["task"] == order) & (results.runs["status"] == "finished")]
    # The analysis compares the runs that reached their score at every stage.
    forgotten = sequence.analyse(results).tables["Runs"].set_index("run_id")["forgetting"]
    seeds = sorted(of_order["seed"].unique())
    rows = []
    before = ""
    for method, rank, rate in settings_in(of_order):
        label = NAMES[method] if method == "full" else f"{NAMES[method]}, rank {rank:g}"
        cells = []
        for seed in seeds:
            run = of_order[is_setting(of_order, method, rank, rate) & (of_order["seed"] == seed)]
            cells.append(_stages(results, run.iloc[0]["run_id"], forgotten) if len(run) else "-")
        rows.append(["" if label == before else label, scientific(rate), *cells])
        before = label
    return markdown(["method, alpha = 2r", "learning rate", *(f"seed {seed}" for seed in seeds)], rows)


def _stages(results: Results, run: str, forgotten: pd.Series[float]) -> str:
    if run not in forgotten.index:
        return "not reached"
    stages = results.sequences[results.sequences["run_id"] == run]
    intruders = stages.groupby("stage")["intruders"].first()
    return f"{forgotten[run]:.0f}; {' '.join(f'{count:.0f}' for count in intruders)}"
