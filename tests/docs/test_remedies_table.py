"""The documentation's table of remedies says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from intruders.mitigation.remedies.every_remedy import PUBLISHED, published_remedy

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "remedies.md"


def test_the_table_has_every_remedy_with_its_default_and_source() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in text[text.index("| `--remedy` |") :].splitlines()
        if line.startswith("|")
    ]
    found = {row[0].strip("`"): row[1:] for row in rows[2:]}
    assert list(found) == list(PUBLISHED)
    for name, (formula, default, source, rank) in found.items():
        remedy = published_remedy(name)
        assert default == f"{remedy.strength} {getattr(remedy, remedy.strength)}"
        assert (source, rank) == (remedy.source, remedy.rank_after)
        assert formula.startswith("W")
