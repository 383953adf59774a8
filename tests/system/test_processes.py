"""Processes take one item after another: all are done, one that is killed costs its item, and none is left."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from intruders.errors import IntrudersError, SettingError
from intruders.system.processes import map_in_processes


def note(item: tuple[str, str]) -> None:
    """Write who did it, with how many threads; or do what the item says."""
    folder, name = item
    (Path(folder) / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "ends":
        os._exit(7)
    if name == "refused":
        raise SettingError("this item is refused")


def items(folder: Path, *names: str) -> list[tuple[str, str]]:
    return [(str(folder), name) for name in names]


def test_every_item_is_done_once_and_what_kills_a_process_costs_its_item_alone(tmp_path: Path) -> None:
    given = items(tmp_path, "a", "killed", "b", "ends", "c", "d")
    started: list[tuple[str, str]] = []
    lost: dict[str, str] = {}

    def lose(item: tuple[str, str], how: str) -> None:
        lost[item[1]] = how

    over = list(map_in_processes(given, note, 2, on_start=started.append, on_lost=lose))
    assert sorted(over) == sorted(given)
    assert started == given  # in their order, each once
    assert lost == {"killed": "by signal 9 (9 is often a lack of memory)", "ends": "with status 7"}
    done = {file.name: file.read_text().split() for file in tmp_path.iterdir()}
    assert set(done) == {name for _, name in given}
    assert {int(threads) for _, threads in done.values()} == {max(1, torch.get_num_threads() // 2)}
    processes = {pid for pid, _ in done.values()}
    assert str(os.getpid()) not in processes
    assert len(processes) <= 4  # two, and one for each that was lost
    assert multiprocessing.active_children() == []


def test_an_error_of_the_work_is_raised_and_no_process_is_left(tmp_path: Path) -> None:
    over = map_in_processes(items(tmp_path, "a", "refused", "b"), note, 1)
    assert next(over) == (str(tmp_path), "a")
    with pytest.raises(IntrudersError, match=r"^this item is refused$"):
        next(over)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "refused"]
    assert multiprocessing.active_children() == []


def test_leaving_early_ends_the_processes(tmp_path: Path) -> None:
    over = map_in_processes(items(tmp_path, *"abcdefgh"), note, 1)
    assert next(over) == (str(tmp_path), "a")
    over.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.iterdir())) < 8


def test_without_items_no_process_starts() -> None:
    assert list(map_in_processes([], note, 3)) == []
