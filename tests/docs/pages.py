"""The pages of the documentation, cut into what the tests look at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [ROOT / "README.md", *PAGES]

# Comment, fence with its language, content. Fences inside of lists or boxes are not used for code.
_BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>.*?) -->\n)?(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, where it is, and why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        comment = found["comment"] or ""
        reason = comment.removeprefix("not run: ") if comment.startswith("not run: ") else None
        line = text.count("\n", 0, found.start("fence")) + 1
        yield Block(page, line, found["language"], found["text"], reason)


def prose(page: Path) -> str:
    """The page without its fenced blocks, code spans and comments; lines keep their numbers."""
    text = page.read_text(encoding="utf-8")
    for pattern in (r"^```.*?^```$", r"<!--.*?-->", r"`[^`]*`"):
        text = re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.M | re.S)
    return text
