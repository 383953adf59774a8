"""Folders that appear whole or not at all: against errors, other processes and kills."""

import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from intruders.errors import CheckpointError
from intruders.system.folders import atomic_folder, check_target


def write_half(target: Path, interruption: type[BaseException]) -> None:
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text("half")
        raise interruption


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for interruption in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(interruption):
            write_half(target, interruption)
        assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as folder:
        assert not target.exists()
        (folder / "config.json").write_text("one")
        (folder / "more").mkdir()
        (folder / "more" / "file").write_text("deep")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "more" / "file").read_text() == "deep"


def test_a_folder_is_replaced_only_by_force_and_only_if_it_is_a_model(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_folder(target) as folder:  # empty: nothing is lost
        (folder / "config.json").write_text("one")
    with pytest.raises(CheckpointError, match="already exists; choose another folder, or pass --force"):
        check_target(target)
    with atomic_folder(target, force=True) as folder:
        (folder / "config.json").write_text("two")
        assert (target / "config.json").read_text() == "one"
    assert (target / "config.json").read_text() == "two"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for name, said in {
        "home": "contains no model or adapter", "file": "is not a folder", "a/b": "does not exist; make it first",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=said):
            check_target(tmp_path / name, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "out"]


def test_a_symbolic_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link", force=True) as folder:
        (folder / "config.json").write_text("two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").read_text() == "two"


def test_a_folder_in_work_is_left_alone_and_one_left_behind_is_removed(tmp_path: Path) -> None:
    left_behind = tmp_path / ".out.0123456789ab.part"
    left_behind.mkdir()
    (left_behind / "model.safetensors").write_text("half")
    with atomic_folder(tmp_path / "another"):
        assert left_behind.is_dir()
    with atomic_folder(tmp_path / "out") as first:
        assert not left_behind.exists()
        with atomic_folder(tmp_path / "out"):
            assert first.is_dir()


def write_while_another_does(target: Path) -> None:
    with atomic_folder(target):
        target.mkdir()
        (target / "config.json").write_text("theirs")


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="by another process meanwhile"):
        write_while_another_does(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == "theirs"


def replace_for_ever(target: Path) -> None:
    for number in count():
        name = f"{os.getpid()}-{number} "
        with atomic_folder(target, force=True) as folder:
            for part in range(8):
                (folder / f"{part}.txt").write_text(name * 20000)
            (folder / "config.json").write_text(name)


def test_kill_at_any_moment_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "out"
    seen = set()
    for attempt in range(25):
        child = os.fork()
        if child == 0:
            try:
                replace_for_ever(target)
            finally:
                os._exit(1)
        time.sleep(0.012 * attempt)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if target.exists():
            name = (target / "config.json").read_text()
            seen.add(name)
            parts = [(target / f"{part}.txt").read_text() for part in range(8)]
            assert all(part == name * 20000 for part in parts)
    assert len(seen) > 1
    with atomic_folder(target, force=True) as folder:
        (folder / "config.json").write_text("last")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
