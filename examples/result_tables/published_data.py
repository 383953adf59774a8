"""What the tables read: findings and tables of published studies, by setting."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .words import scientific

RESULTS = Path(__file__).parents[2] / "docs" / "results"
NAMES = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "b-only": "B alone", "full": "full"}


def finding_of(study: str, claim: str) -> dict[str, Any]:
    document = json.loads((RESULTS / "data" / study / "findings.json").read_text(encoding="utf-8"))
    finding: dict[str, Any] = next(each for each in document["findings"] if each["name"] == claim)
    return finding


def runs_by_setting(study: str) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield the first two cells of every setting's row, and its finished runs by seed; full fine-tuning comes last."""
    runs = read_table(study, "runs")
    runs = runs[runs["status"] == "finished"]
    methods = list(dict.fromkeys(runs["method"]))
    ranks = runs["rank"].where(runs["method"] != "full", 0)
    groups = dict(list(runs.groupby(["method", ranks, "lr"])))
    for key in sorted(groups, key=lambda each: (each[0] == "full", methods.index(each[0]), each[1], each[2])):
        method, rank, rate = key
        name = NAMES[method] if method == "full" else f"{NAMES[method]}, {rank:g}"
        yield [name, scientific(rate)], groups[key].sort_values("seed")


def read_table(study: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "data" / study / f"{table}.parquet")
