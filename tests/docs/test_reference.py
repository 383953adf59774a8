"""The pages of commands and settings say what the code says: all of it, and nothing of an earlier version."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import make_reference
from intruders.settings import Settings


def test_no_page_differs_from_the_code() -> None:
    """The same check as ``make lint``; to write the pages again: ``python examples/make_reference.py``."""
    assert make_reference.drifted() == []


def test_a_page_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_reference
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


def subclasses(cls: type[Settings]) -> Iterator[type[Settings]]:
    for one in cls.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_class_of_settings_has_its_table() -> None:
    """Its own, or that of a class that has all of its settings and more; remedies and the callback have their pages."""
    shown = tuple(make_reference.CLASSES)
    ours = {
        one
        for one in subclasses(Settings)
        if one.__module__.startswith(("intruders.", "intruders_research."))
        and not one.__module__.startswith(("intruders.mitigation.", "intruders.training.callback."))
    }
    assert set(shown) <= ours
    assert [one.__name__ for one in ours if not any(issubclass(table, one) for table in shown)] == []
