"""Blocks of a fleet are read as they were kept, and so are those of an older version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from intruders.audits.fleet.kept_blocks import KeptBlocks, Unit, rows_of
from intruders.audits.result.subspaces import SUBSPACE_COLUMNS
from intruders.system.mirrored_folder import MirroredFolder
from tests.made_up import made_up_matrix


def test_a_block_of_an_older_version_has_no_subspaces(tmp_path: Path) -> None:
    matrix = made_up_matrix("w", (64, 64), np.random.default_rng(0), intruder_rate=0.5)
    blocks = KeptBlocks(MirroredFolder(tmp_path), "0" * 64)
    blocks.keep("block", {"model": Unit()}, [rows_of(["model"], [matrix])])
    [file] = (tmp_path / "blocks").iterdir()
    [kept] = blocks.each()
    whole = kept.rows()
    table = pq.read_table(file)
    older = table.drop_columns(list(SUBSPACE_COLUMNS)).replace_schema_metadata(table.schema.metadata)
    pq.write_table(older, file)
    [kept] = blocks.each()
    assert kept.rows().column_names == whole.column_names
    assert kept.rows()["rho_k"].null_count == len(matrix.vectors)
    assert kept.rows()["singular_value"] == whole["singular_value"]
