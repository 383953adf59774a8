"""Pages of the documentation: short, runnable on the first screen, linked to what exists, and to what comes next."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import make_reference
from tests.docs.pages import DOCS, PAGES, READ, ROOT, blocks

LONGEST = 120  # lines
FIRST_SCREEN = 30  # lines
NAMES_OF_PYTHON = "reference/python.md"
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]


@cache
def made_pages() -> frozenset[str]:
    """Those that a script writes, made once."""
    return frozenset(make_reference.pages())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_page(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    name = page.relative_to(DOCS).as_posix()
    # As long as the code has options, settings and public names.
    assert len(lines) < LONGEST or name in made_pages() or name == NAMES_OF_PYTHON
    assert any(line.startswith("```") for line in lines[:FIRST_SCREEN]), "no fenced block on the first screen"
    assert lines[-1].startswith("**Next:** ")
    assert not re.search(r"^ {4}\$ ", "\n".join(lines), re.MULTILINE), "a command outside of a fenced block"
    assert all(block.language for block in blocks(page)), "a fence without a language"
    starred = [line for line in lines if line.startswith("|") and re.search(r"\d\*", line)]
    assert not starred, "a star behind a number begins emphasis, and is not seen; write \\*"


@cache
def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings)
    return {re.sub(r"[\s]+", "-", heading) for heading in plain}


def test_links() -> None:
    for page in READ:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if re.match(r"\w+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), (page, target)
            if anchor and not anchor.startswith("only-"):
                assert anchor in anchors(file), (page, target)


def test_every_public_name_is_documented() -> None:
    import intruders

    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: intruders\.(\w+)$", text, re.MULTILINE))
    assert shown == set(intruders.__all__) - {"__version__"}


def test_every_page_is_in_the_navigation_or_left_out_by_name() -> None:
    class Loader(yaml.SafeLoader):
        """Ignores tags of Python names."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *given: None)
    described = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def paths(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        below = nav.values() if isinstance(nav, dict) else nav
        return [path for item in below for path in paths(item)]  # type: ignore[attr-defined]

    # Kept for who checks a study, and reached from its page.
    beside = described["not_in_nav"].split()
    assert sorted([*paths(described["nav"]), *beside]) == sorted(NAMES)
