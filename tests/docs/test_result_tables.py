"""The tables of runs on result pages are those of the published data."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.docs.pages import DOCS
from tests.docs.reference import result_tables

SCRIPT = result_tables()


def test_no_table_differs_from_its_data() -> None:
    """To write them again: ``python examples/make_result_tables.py``."""
    assert [file.name for file, _ in SCRIPT.differing()] == []


@pytest.mark.parametrize("table", SCRIPT.tables(), ids=lambda table: f"{table.page}-{table.number}")
def test_a_changed_number_is_missed(table: object) -> None:
    page = (DOCS / "results" / table.page).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    row = table.made()[-1]  # type: ignore[attr-defined]
    assert page.count(row) == 1
    changed = page.replace(row, row.replace(row[-3], "x"))
    assert SCRIPT.replaced(changed, table) == page


def test_points_forgotten_are_those_of_the_best_accuracy_before() -> None:
    """By hand: 0.8 is lost from 0.9 to 0.7, and 0.6 from 0.6 to 0.5, so 15 points on average."""
    stages = pd.DataFrame(
        [
            {"stage": 0, "task_index": 0, "accuracy": 0.8, "intruders": 1.0, "reached": True},
            {"stage": 1, "task_index": 0, "accuracy": 0.9, "intruders": 2.0, "reached": True},
            {"stage": 1, "task_index": 1, "accuracy": 0.6, "intruders": 2.0, "reached": True},
            {"stage": 2, "task_index": 0, "accuracy": 0.7, "intruders": 0.0, "reached": True},
            {"stage": 2, "task_index": 1, "accuracy": 0.5, "intruders": 0.0, "reached": True},
            {"stage": 2, "task_index": 2, "accuracy": 0.9, "intruders": 0.0, "reached": True},
        ]
    ).assign(run_id="a")
    run = {
        "run_id": "a",
        "task": "x,y,z",
        "status": "finished",
        "method": "lora",
        "rank": 4.0,
        "lr": 3e-4,
        "seed": 0,
    }
    assert (
        SCRIPT.sequence_runs(pd.DataFrame([run]), stages, "x,y,z")[-1]
        == "| LoRA, rank 4 | 3e-4 | 15; 1 2 0 |"
    )
    stages.loc[2, "reached"] = False
    assert SCRIPT.sequence_runs(pd.DataFrame([run]), stages, "x,y,z")[-1].endswith("| not reached |")
