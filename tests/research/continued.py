"""Checks that a study which takes runs over trains nothing and has the same tables, and tables cut to one run."""

from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from intruders.studies.results import Results
from tests.studies.tiny_study import stages_do

TABLES = ("runs", "losses", "matrices", "vectors", "interventions", "traces")


def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_again(*arguments: object) -> None:
        raise AssertionError("trained or measured again")

    stages_do(monkeypatch, not_again)


def same_tables(own: Results, other: Results, run_ids: list[str] | None = None) -> None:
    for table in TABLES:
        first, second = getattr(own, table), getattr(other, table)
        if run_ids is not None:
            first = first[first["run_id"].isin(run_ids)].reset_index(drop=True)
            second = second[second["run_id"].isin(run_ids)].reset_index(drop=True)
        pd.testing.assert_frame_equal(first, second)


def only_of(table: Path, run_id: str) -> None:
    """Leave the rows of one run in a table, as before the others were written."""
    rows = pq.read_table(table)
    pq.write_table(rows.filter(pc.equal(rows["run_id"], run_id)), table)
