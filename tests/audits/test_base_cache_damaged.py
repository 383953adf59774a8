"""Entries that are broken, written by several processes at once, or find no room: the answer stays the same."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from intruders.audits.audit import audit
from intruders.audits.base_cache import BaseKeys, DiskCache
from intruders.audits.prepare_base import prepare
from intruders.engine.known_base import KnownBase
from intruders.errors import CacheError
from tests.audits.test_base_cache import decisions, entries, models, plain
from tests.commands import forked


def with_bits_flipped(data: bytes) -> bytes:
    """The header stays valid, the numbers do not: what a bad disk returns."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 64]) + data[middle + 64 :]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-5],
    "with bits flipped": with_bits_flipped,
    # By the writer of safetensors, without the checksum of ours.
    "with other numbers": lambda data: save({name: torch.nan * value for name, value in load(data).items()}),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    audit(*models(), cache=DiskCache(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(*models(), cache=DiskCache(folder))  # whole entries are read without a word
    return folder


@pytest.mark.parametrize("how", SPOILT)
def test_a_broken_entry_is_computed_again_and_said_so(how: str, filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    good = {path: path.read_bytes() for path in entries(tmp_path)}
    assert len(good) == 2
    for path, data in good.items():
        path.write_bytes(SPOILT[how](data))
    with pytest.warns(UserWarning, match="is broken and is computed again") as told:
        found = audit(*models(), cache=DiskCache(tmp_path))
    assert len(told) == 2
    assert all("\n" not in str(warning.message) for warning in told)
    assert found.matrices == plain().matrices
    assert {path: path.read_bytes() for path in entries(tmp_path)} == good  # mended


def test_a_broken_entry_that_cannot_be_removed_is_computed_again(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of another user, for which the superuser that tests may run as needs no permission."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    entries(tmp_path)[0].write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(UserWarning, match="is broken and is computed again"):
        assert DiskCache(tmp_path).get(entries(tmp_path)[0].stem) is None


def test_an_entry_under_the_name_of_another_is_computed_again(filled: Path, tmp_path: Path) -> None:
    """What a restored or deduplicated folder may contain: complete, and of a matrix of the same shape."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    first, second = entries(tmp_path)
    shutil.copy(first, second)
    with pytest.warns(UserWarning, match="not those that were written under this name") as told:
        found = audit(*models(), cache=DiskCache(tmp_path))
    assert len(told) == 1
    assert found.matrices == plain().matrices


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    """They start together on the same matrices; each answers as if alone, and whole entries are left."""
    alone, together = decisions(plain()), multiprocessing.get_context("fork").Barrier(2)

    def audit_twice() -> None:
        warnings.simplefilter("error")
        together.wait(60)
        for _ in range(2):
            assert decisions(audit(*models(), cache=DiskCache(tmp_path))) == alone

    processes = [forked(audit_twice) for _ in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decisions(audit(*models(), cache=DiskCache(tmp_path))) == alone
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".safetensors"}


def test_a_folder_without_locks_keeps_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    key, known = BaseKeys.of(matrix, 3).whole, KnownBase.decomposed(matrix.unsqueeze(0))
    left = tmp_path / key[0] / ".scratch.0123456789ab.part"  # of a kill, or of another machine that is at it
    left.mkdir(parents=True)
    DiskCache(tmp_path).write(key, known)
    assert DiskCache(tmp_path).read(key) is not None
    assert left.is_dir()


@pytest.mark.parametrize(
    ("module", "function", "error"),
    [
        (os, "replace", OSError(28, "No space left on device")),
        (safetensors.torch, "save_file", SafetensorError("No space left on device (os error 28)")),
    ],
    ids=["the system's error", "the error of safetensors"],
)
def test_a_full_disk_costs_the_entry_and_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, function: str, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, function, full)
    with pytest.warns(UserWarning, match="was not kept") as told:
        found = audit(*models(), cache=DiskCache(tmp_path))
    assert "No space left on device" in str(told[0].message)
    assert found.matrices == plain().matrices
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    # Of a preparation the entries are the result.
    with pytest.raises(CacheError, match=r"was not kept .*No space left.*make room"):
        prepare(models()[0], out=tmp_path)
