"""An audit in terminals that are narrower than its first line, or that say they have no columns."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from intruders.cli.standard_streams import ready_streams
from intruders.measures.intervals import Interval
from intruders.reports.audit.audit_text import print_audit
from tests.made_up import made_up_audit


@pytest.mark.parametrize("width", [1, 12, 20, 33, 80])
def test_every_word_of_the_totals_is_printed_once(width: int) -> None:
    audit = made_up_audit(layers=2)
    text = io.StringIO()
    print_audit(audit, Console(file=text, width=width))
    printed = " ".join(text.getvalue().split())
    assert printed.count(f"{audit.intruders} intruder dimensions in {audit.vectors} vectors") == 1
    assert printed.count("intruder dimensions") == 1


def test_one_document_has_no_ends_to_print() -> None:
    inf = float("inf")
    assert Interval(0.5, -inf, inf).text("+.2f") == "+0.50"
    assert Interval(0.5, 0.25, inf).text(".2f") == "0.50 [0.25, inf]"


def test_a_terminal_of_no_columns_is_one_of_unknown_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    ready_streams()
    assert "COLUMNS" not in os.environ
