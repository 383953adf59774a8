"""A table as a file: bounds of max cosines are rounded outward, by hand and for any bounds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intruders.studies.tables import read_rows, to_parquet


def read_again(bounds: list[tuple[float | None, float | None]], folder: Path) -> list[dict[str, Any]]:
    rows = [{"run_id": "a", "max_cosine_lower": low, "max_cosine_upper": high} for low, high in bounds]
    (folder / "vectors.parquet").write_bytes(to_parquet("vectors", rows))
    return read_rows(folder / "vectors.parquet")


def test_bounds_are_rounded_outward_to_a_millionth(tmp_path: Path) -> None:
    (row,) = read_again([(0.3, 0.7)], tmp_path)
    # 0.3 and 0.7 times 2^20 are 314,572.8 and 734,003.2.
    assert Fraction(row["max_cosine_lower"]) == Fraction(314_572, 2**20)
    assert Fraction(row["max_cosine_upper"]) == Fraction(734_004, 2**20)


def test_bounds_of_few_digits_and_missing_ones_stay(tmp_path: Path) -> None:
    (exact, missing) = read_again([(0.0, 1.0), (None, 0.5)], tmp_path)
    assert (exact["max_cosine_lower"], exact["max_cosine_upper"]) == (0.0, 1.0)
    assert (missing["max_cosine_lower"], missing["max_cosine_upper"]) == (None, 0.5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1))
def test_bounds_that_are_read_contain_those_that_were_written(
    tmp_path: Path, bounds: list[tuple[float | None, float | None]]
) -> None:
    once = read_again(bounds, tmp_path)
    for (low, high), row in zip(bounds, once, strict=True):
        assert low is not None
        assert high is not None
        assert 0 <= Fraction(low) - Fraction(row["max_cosine_lower"]) < Fraction(1, 2**20)
        assert 0 <= Fraction(row["max_cosine_upper"]) - Fraction(high) < Fraction(1, 2**20)
    # Rows that are taken over and published again lose nothing further.
    again = read_again([(row["max_cosine_lower"], row["max_cosine_upper"]) for row in once], tmp_path)
    assert again == once
