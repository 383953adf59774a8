"""Every heading of docs/how-to/errors.md is a message of the package, word for word."""

import ast
import re
from collections import Counter
from functools import cache

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = (DOCS / "how-to" / "errors.md").read_text(encoding="utf-8").replace(r"\*", "*")
HEADINGS = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)


@cache
def templates() -> list[str]:
    """Every string of the package, with "…" where a value is filled in."""
    found = []
    for file in sorted((ROOT / "intruders").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def plain(text: str) -> str:
    """Without the quotes around what is filled in, which a heading has and a format of ``!r`` has not."""
    return re.sub(r"'?…'?", "…", text).strip()


def is_of_the_package(heading: str) -> bool:
    """A heading ends with "…" where the rest of the message varies."""
    wanted = plain(heading)
    whole = wanted.removesuffix("…").rstrip()
    return any(
        plain(text) == wanted or (wanted.endswith("…") and plain(text).startswith(whole))
        for text in templates()
    )


def test_no_message_is_explained_twice() -> None:
    assert [heading for heading, count in Counter(HEADINGS).items() if count > 1] == []
    assert HEADINGS, "the page has headings"


@pytest.mark.parametrize("heading", HEADINGS)
def test_heading_is_a_message(heading: str) -> None:
    assert is_of_the_package(heading)
