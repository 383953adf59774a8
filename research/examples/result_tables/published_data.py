"""What the tables read: findings and tables of published studies, by setting."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .words import scientific

RESULTS = Path(__file__).parents[3] / "docs" / "results"
NAMES = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "b-only": "B alone", "full": "full"}


def finding_of(study: str, claim: str) -> dict[str, Any]:
    document = json.loads((RESULTS / "data" / study / "findings.json").read_text(encoding="utf-8"))
    finding: dict[str, Any] = next(each for each in document["findings"] if each["name"] == claim)
    return finding


def runs_by_setting(study: str) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield the first two cells of every setting's row, and its finished runs by seed."""
    runs = read_table(study, "runs")
    runs = runs[runs["status"] == "finished"]
    for method, rank, rate in settings_in(runs):
        name = NAMES[method] if method == "full" else f"{NAMES[method]}, {rank:g}"
        yield [name, scientific(rate)], runs[is_setting(runs, method, rank, rate)].sort_values("seed")


def settings_in(runs: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Method, rank and learning rate of every setting, in the order of the study, full fine-tuning last."""
    methods = list(dict.fromkeys(runs["method"]))
    known = {(row.method, row.rank if row.method != "full" else 0.0, row.lr) for row in runs.itertuples()}
    return sorted(known, key=lambda each: (each[0] == "full", methods.index(each[0]), each[1], each[2]))


def is_setting(runs: pd.DataFrame, method: str, rank: float, rate: float) -> "pd.Series[bool]":
    return (
        (runs["method"] == method)
        & (runs["lr"] == rate)
        & ((runs["method"] == "full") | (runs["rank"] == rank))
    )


def read_table(study: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "data" / study / f"{table}.parquet")
