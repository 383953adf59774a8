"""`intruders card` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import in_this_process, without_loading
from tests.made_up import made_up_audit


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    made_up_audit(2, width=32).save(tmp_path / "audit.json")
    return tmp_path / "audit.json"


def test_the_card_is_written_and_named(saved: Path, tmp_path: Path) -> None:
    done = in_this_process("card", saved, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "README.md\n", "")
    first = (tmp_path / "README.md").read_bytes()
    assert in_this_process("card", saved, tmp_path / "README.md").returncode == 0
    assert (tmp_path / "README.md").read_bytes() == first


def test_what_cannot_be_done_is_one_line_and_status_2(saved: Path, tmp_path: Path) -> None:
    for arguments, said in [
        ((tmp_path / "gone.json",), "gone.json"),
        ((saved, tmp_path), "is a folder"),
        ((saved, tmp_path / "no" / "README.md"), "does not exist; make it first"),
    ]:
        done = in_this_process("card", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "README.md").exists()


def test_a_saved_audit_is_described_without_loading_torch(saved: Path, tmp_path: Path) -> None:
    """Which takes four times as long as the rest of the command."""
    commands = [["card", saved, tmp_path / "card.md"], ["report", saved, "--out", tmp_path / "report.html"]]
    done = without_loading(["torch"], *commands)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()
