"""The tables of runs on result pages are those of the published data."""

import pytest

import make_result_tables
from tests.docs.pages import DOCS


def test_no_table_differs_from_its_data() -> None:
    """To write them again: ``python examples/make_result_tables.py``."""
    assert [file.name for file, _ in make_result_tables.differing()] == []


@pytest.mark.parametrize(
    "table", make_result_tables.tables(), ids=lambda table: f"{table.page}-{table.begins}"
)
def test_a_changed_number_is_missed(table: object) -> None:
    page = (DOCS / "results" / table.page).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    row = table.made()[-1]  # type: ignore[attr-defined]
    assert page.count(row) == 1
    last = next(character for character in reversed(row) if character.isalnum())  # the last cell may be empty
    changed = page.replace(row, row.replace(last, "~"))
    assert make_result_tables.replaced(changed, table) == page


@pytest.mark.parametrize(
    ("made", "is_same"),
    [
        ("| 3 | +0.9275 | 1e-4 | *supported* |", True),
        ("| 3 | +0.9276 | 1e-4 | *supported* |", True),  # a tie that was rounded to the other side
        ("| 3 | +0.9277 | 1e-4 | *supported* |", False),
        ("| 3 | +0.928 | 1e-4 | *supported* |", False),
        ("| 3 | -0.9275 | 1e-4 | *supported* |", False),
        ("| 4 | +0.9275 | 1e-4 | *supported* |", False),
        ("| 3 | +0.9275 | 2e-4 | *supported* |", False),
        ("| 3 | +0.9275 | 1e-4 | *inconclusive* |", False),
        ("| 3 | +0.9275 | 1e-4 | *supported* | 0.5 |", False),
    ],
)
def test_a_page_differs_by_more_than_rounding(made: str, is_same: bool) -> None:
    assert make_result_tables.is_same("| 3 | +0.9275 | 1e-4 | *supported* |", made) == is_same
