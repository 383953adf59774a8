"""`intruders report` as a person types it, with what is made of studies."""

from pathlib import Path

import pytest

from tests.cli.test_report import saved
from tests.commands import in_this_process

__all__ = ["saved"]


@pytest.mark.parametrize("chosen", ["--verdicts", "--data", "--forest"])
def test_an_option_beside_one_that_writes_no_report_is_refused(chosen: str, tmp_path: Path) -> None:
    value = [] if chosen == "--verdicts" else [tmp_path / "there"]
    done = in_this_process("report", tmp_path, chosen, *value, "--out", tmp_path / "r.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        f"out is '{tmp_path / 'r.html'}', which has no effect beside {chosen}; leave one of the two out"
        in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_several_studies_are_not_published_in_one_folder(tmp_path: Path) -> None:
    done = in_this_process("report", tmp_path, tmp_path, "--data", tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--data publishes one study, and 2 paths were given" in done.stderr


def test_verdicts_of_a_file_ask_for_the_folder_of_a_study(saved: tuple[Path, Path]) -> None:
    done = in_this_process("report", saved[0], "--verdicts")
    assert done.returncode == 2
    assert f"'{saved[0]}' is a file, and not the folder of a study" in done.stderr
