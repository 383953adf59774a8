"""Folders that are made for work."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import CheckpointError, SettingError
from intruders.system.folders import LOCK, check_target, follow_umask, locked_folder, working_folder


def test_a_working_folder_is_made_and_held_and_stays_unless_nothing_was_kept(tmp_path: Path) -> None:
    new, used, there = tmp_path / "new", tmp_path / "used", tmp_path / "there"
    there.mkdir()
    for folder in (new, used, there):
        with suppress(ValueError), working_folder(folder, "keep") as given:
            assert given == folder
            with pytest.raises(SettingError, match=r"keep '.*' is in use"), working_folder(folder, "keep"):
                pass
            if folder == used:
                (folder / "kept").write_text("x")
            raise ValueError("refused")
    assert not new.exists()
    assert {entry.name for entry in used.iterdir()} == {"kept", LOCK}
    assert there.is_dir()
    with working_folder(new):
        pass
    assert new.is_dir()
    with working_folder(None) as given:
        assert given is None


def test_a_folder_that_is_waited_for_is_free_in_the_end(tmp_path: Path) -> None:
    held = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command, pipe = [sys.executable, "-c", held, str(tmp_path / LOCK)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SettingError, match="is in use"), locked_folder(tmp_path):
            pass
        other.stdin.close()  # it ends
        with locked_folder(tmp_path, wait=True):
            assert other.wait(60) == 0


def test_a_folder_that_its_holder_removes_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is of a file that no path leads to any more, so that a further process could lock the next one."""
    real = fcntl.flock

    def lock_after_removal(*given: Any) -> None:
        shutil.rmtree(tmp_path / "work")
        real(*given)

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(fcntl, "flock", lock_after_removal)
    with pytest.raises(SettingError, match="is in use by another process"), locked_folder(tmp_path / "work"):
        pass


def test_files_get_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    outside = tmp_path / "outside"
    for file in (outside, tmp_path / "a" / "x", tmp_path / "a" / "b" / "y"):
        file.touch(0o600)
    (tmp_path / "a" / "link").symlink_to(outside)
    before = os.umask(0o007)
    try:
        follow_umask(tmp_path / "a")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*") if file.is_file()}
    assert modes == {"outside": 0o600, "link": 0o600, "x": 0o660, "y": 0o660}


@pytest.mark.parametrize("name", [".", "..", "{}", "{}/.."])
@pytest.mark.parametrize("force", [False, True])
def test_the_current_folder_is_kept(
    name: str, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell in it would be left in a folder that is gone, and a whole tree could go with it."""
    here = tmp_path / "models" / "empty"
    here.mkdir(parents=True)
    (here.parent / "config.json").write_text("{}")
    monkeypatch.chdir(here)
    with pytest.raises(CheckpointError, match="is the current folder or contains it"):
        check_target(name.format(here), force=force)
    check_target(here / "new")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (os.fsdecode(b"m\xe9"), r"'m\\udce9' is not UTF-8, as results must be; choose another"),
        # The system refuses to give it another name (EBUSY), which would be known only after the work.
        ("/proc", r"'/proc' is a mount point.*; pass a folder inside it"),
        # The superuser may write everywhere by its permissions, and no file system of the kernel takes a folder.
        ("/sys/kernel/new", r"^cannot write '/sys/kernel/new': nothing can be written in '/sys/k"),
    ],
)
def test_what_could_not_be_written_is_refused_before_the_work(target: str, said: str) -> None:
    if not Path("/sys/kernel").is_dir():
        pytest.skip("no folder that nobody can write in")
    with pytest.raises(CheckpointError, match=said):
        check_target(target, force=True)
