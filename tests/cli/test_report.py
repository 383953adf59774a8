"""`intruders report` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import in_this_process
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
    assert done.stdout.splitlines() == [str(out), *map(str, done_files(done.stdout, figures))]
    assert "2 fine-tunings" in out.read_text(encoding="utf-8")


def done_files(output: str, folder: Path) -> list[Path]:
    """The figures that the output names, all of which are there, and no others."""
    named = [Path(line) for line in output.splitlines()[1:]]
    assert sorted(named) == sorted(folder.iterdir())
    return named


def test_what_cannot_be_done_is_one_line_and_status_2(saved: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(saved[0].read_bytes()[:500])
    for arguments, said in [
        ((saved[0],), "nothing to write"),
        ((tmp_path / "gone.json", "--out", tmp_path / "r.html"), "gone.json"),
        ((broken, "--out", tmp_path / "r.html"), "broken.json"),
        ((saved[0], "--out", tmp_path / "no" / "r.html"), "does not exist; make it first"),
    ]:
        done = in_this_process("report", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    assert not (tmp_path / "r.html").exists()
