"""What reports print passes one guard: names come from files, and may hold what a terminal obeys."""

import ast

import pytest

from tests.house.test_layers import PACKAGE

REPORTS = PACKAGE / "reports"
PAGE = REPORTS / "terminal.py"
# What makes text or tables of rich, and what prints. A `str` that rich prints is read as markup, and a `Text` as it is.
OF_RICH = {"Text", "Table", "add_column", "add_row", "print"}


def made_by_hand(source: str) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(call.lineno, getattr(call.func, "id", getattr(call.func, "attr", ""))) for call in calls]
    return [f"line {line}: {name}" for line, name in sorted(names) if name in OF_RICH]


def test_reports_leave_text_and_tables_of_a_terminal_to_the_page() -> None:
    assert {
        str(file.relative_to(PACKAGE)): calls
        for file in sorted(REPORTS.rglob("*.py"))
        if file != PAGE and (calls := made_by_hand(file.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("console.print(Text(name))", ["line 1: Text", "line 1: print"]),
        ("table = rich.table.Table(box=None)\ntable.add_row(name)", ["line 1: Table", "line 2: add_row"]),
        ("def f() -> Table:\n    return page.columns([name], [])", []),
    ],
)
def test_text_made_by_hand_is_noticed(source: str, calls: list[str]) -> None:
    assert made_by_hand(source) == calls
