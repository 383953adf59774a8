"""The pages of commands and settings say what the code says: all of it, and nothing of an earlier version."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from intruders.cli.main import app
from intruders.settings import Settings
from tests.docs.pages import DOCS
from tests.docs.reference import reference

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def unescaped(text: str) -> str:
    return re.sub(r"\\([|*<>_\[\]])", r"\1", text)


def rows(page: str) -> list[tuple[str, str]]:
    """Name and meaning of each row of the tables of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE)
    return [(name, unescaped(meaning)) for name, meaning in found]


def printed_help(command: str) -> str:
    """What ``--help-all`` prints, with the wrapped lines of each option on one line."""
    result = CliRunner().invoke(app, [command, "--help-all"], terminal_width=80, max_content_width=80)
    assert result.exit_code == 0
    return result.output


def test_no_page_differs_from_the_code() -> None:
    """The same check as ``make lint``; to write the pages again: ``python examples/make_reference.py``."""
    assert reference().drifted() == []


def test_a_page_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = reference()
    monkeypatch.setattr(made, "DOCS", tmp_path)
    (tmp_path / "reference").mkdir()
    made.write()
    assert made.drifted() == []
    page = tmp_path / "reference" / "cli" / "audit.md"
    page.write_text(page.read_text(encoding="utf-8").replace("default: 10", "default: 20"), encoding="utf-8")
    (tmp_path / "reference" / "cli" / "gone.md").write_text("# intruders gone\n", encoding="utf-8")
    (tmp_path / "reference" / "settings.md").unlink()
    assert made.drifted() == ["reference/cli/audit.md", "reference/cli/gone.md", "reference/settings.md"]
    made.write()
    assert made.drifted() == []
    assert not (tmp_path / "reference" / "cli" / "gone.md").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_what_help_prints(command: str) -> None:
    """Against the printed text, which typer makes: every option of either is in the other."""
    shown = printed_help(command)
    flat = " ".join(shown.split())
    of_page = rows(f"reference/cli/{command}.md")
    for name, meaning in of_page:
        assert name in flat.replace("|", "/"), name  # a bar would end the cell
        assert meaning in flat, name
    options = {option for name, _ in of_page for option in re.findall(r"--[a-z][a-z0-9-]*", name)}
    lines, _, _ = shown.partition("Examples:")
    first = [line for line in lines.splitlines() if re.match(r"  (?:-\w, )?--", line)]
    printed = {option for line in first for option in re.findall(r"--[a-z][a-z0-9-]*", line.split("  ")[1])}
    assert options == printed


def subclasses(cls: type[Settings]) -> Iterator[type[Settings]]:
    for one in cls.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_class_of_settings_has_its_table() -> None:
    """Its own, or that of a class that has all of its settings and more; remedies and the callback have their pages."""
    shown = tuple(reference().CLASSES)
    ours = {
        one
        for one in subclasses(Settings)
        if one.__module__.startswith(("intruders.", "intruders_research."))
        and not one.__module__.startswith(("intruders.mitigation.", "intruders.training.callback."))
    }
    assert set(shown) <= ours
    assert [one.__name__ for one in ours if not any(issubclass(table, one) for table in shown)] == []
