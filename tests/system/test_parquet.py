"""Parquet files against what pyarrow itself reads of them."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intruders.system.parquet import parquet_bytes

TABLE = pa.table({"name": ["a", "b", "a"], "value": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(("only_texts", "wanted"), [(False, {"name", "value"}), (True, {"name"})])
def test_columns_with_a_dictionary(only_texts: bool, wanted: set[str]) -> None:
    file = pq.ParquetFile(io.BytesIO(parquet_bytes(TABLE, only_texts=only_texts)))
    assert file.read().equals(TABLE)
    columns = [file.metadata.row_group(0).column(place) for place in range(TABLE.num_columns)]
    assert {column.path_in_schema for column in columns if column.has_dictionary_page} == wanted
    assert {column.compression for column in columns} == {"ZSTD"}


def test_a_small_file_has_the_same_numbers_in_fewer_bytes() -> None:
    cosines = [0.9 + number % 997 / 1e5 for number in range(20_000)]
    table = pa.table(
        {
            "name": ["q_proj", "v_proj"] * 10_000,
            "index": [number % 10 for number in range(20_000)],
            "cosine": [*cosines[:-2], None, float("inf")],
        }
    )
    usual, small = (parquet_bytes(table, only_texts=True, is_small=is_small) for is_small in (False, True))
    assert pq.read_table(io.BytesIO(small)).equals(table)
    assert len(small) < len(usual)
