"""`intruders report` and `intruders card` as a person types them."""

from pathlib import Path

import pytest

from tests.commands import in_this_process, refusal, without_loading
from tests.made_up import BERT, made_up_audit

ONE = made_up_audit(2, BERT, width=32, tuned="runs/r1")
TWO = made_up_audit(2, BERT, width=32, tuned="runs/r8", rank=8)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    ONE.save(tmp_path / "one.json")
    TWO.save(tmp_path / "two.parquet")
    return tmp_path / "one.json", tmp_path / "two.parquet"


def test_a_report_and_figures_are_written_and_named(saved: tuple[Path, Path], tmp_path: Path) -> None:
    out, figures = tmp_path / "report.html", tmp_path / "figures"
    done = in_this_process("report", *saved, "--out", out, "--png", figures)
    assert (done.returncode, done.stderr) == (0, "")
    page, *named = done.stdout.splitlines()
    assert page == str(out)
    assert sorted(named) == sorted(map(str, figures.iterdir()))
    assert "2 fine-tunings" in out.read_text(encoding="utf-8")


def test_a_report_needs_a_place(saved: tuple[Path, Path]) -> None:
    assert "nothing to write" in refusal("report", saved[0])


def test_a_saved_audit_is_described_without_loading_torch(saved: tuple[Path, Path], tmp_path: Path) -> None:
    """Which takes four times as long as the rest of the command."""
    page = tmp_path / "report.html"
    commands = [["card", saved[0], tmp_path / "card.md"], ["report", saved[0], "--out", page]]
    done = without_loading(["torch"], *commands)
    assert done.returncode == 0, done.stderr
    assert page.is_file()
