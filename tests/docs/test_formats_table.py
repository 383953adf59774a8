"""The pages of formats and adapters name a test for every row, and every test that they name exists."""

import re

from tests.docs.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"
FILES = {file.name: file for file in (ROOT / "tests" / "checkpoints").rglob("test_*.py")}
PAGE = "\n".join((REFERENCE / name).read_text(encoding="utf-8") for name in ("formats.md", "adapters.md"))


def test_named_tests_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 50
    for file, test in named:
        assert f"def {test}(" in FILES[file].read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|[- |]+\|$", line)]
    heads = ("| Format ", "| Method ", "| Weight ", "| Adapter ")
    for row in rows:
        assert row.startswith(heads) or "::test_" in row, row
