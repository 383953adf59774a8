"""What a kill leaves unfinished in a folder is no work of somebody else, and is removed by the next process there."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from intruders.measures.evaluation import check_evaluation_folder
from intruders.studies.study_folder import StudyFolder
from intruders.system.files import is_left_behind, write_atomically
from intruders.system.folders import atomic_folder, locked_folder, require_ours
from tests.commands import forked
from tests.studies.tiny_study import parsed, tiny_study


def killed_while_writing(file: Path) -> None:
    """Write a file in a process that is killed when all is written and nothing has its name yet."""

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        os.replace = kill
        write_atomically(file, b"{}")

    process = forked(write)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def accept_study(folder: Path) -> None:
    study = parsed(tiny_study(Path("llama"), task="word-problems"))
    StudyFolder(folder).require_is_for(study, must_exist=False)


@pytest.mark.parametrize(
    ("name", "accept"),
    [
        ("run.json", lambda folder: require_ours(folder, ["run.json"], "a run")),
        ("evaluation.json", lambda folder: check_evaluation_folder(folder, force=False)),
        ("study.json", accept_study),
    ],
)
def test_a_kill_makes_no_folder_foreign(name: str, accept: Callable[[Path], None], tmp_path: Path) -> None:
    killed_while_writing(tmp_path / name)
    (left,) = tmp_path.iterdir()
    assert is_left_behind(left.name)
    accept(tmp_path)
    with locked_folder(tmp_path):
        assert {entry.name for entry in tmp_path.iterdir()} == {".lock"}


def test_what_another_process_writes_is_not_taken_for_left_behind(tmp_path: Path) -> None:
    ours = tmp_path / ".notes.0123456789.part"  # ten digits are no name of an unfinished file
    ours.touch()
    seen = []

    def look_then_write(file: int) -> None:
        with locked_folder(tmp_path):
            seen.append({entry.name for entry in tmp_path.iterdir()})
        real(file)

    real = os.fsync
    with atomic_folder(tmp_path / "model") as unfinished, pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", look_then_write)
        write_atomically(tmp_path / "result.json", b"{}")
    assert (tmp_path / "result.json").read_bytes() == b"{}"
    assert (tmp_path / "model").is_dir()
    (names,) = seen
    assert {unfinished.name, ours.name} < names
    assert len(names) == 4  # with the lock and the unfinished file
