"""A folder and its copy under a URL have the same files, and a transfer that is cut off leaves no half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from intruders.errors import StoreError
from intruders.system.mirrored_folder import MirroredFolder
from intruders.system.remote_folder import RemoteFolder

fsspec = pytest.importorskip("fsspec")


def names_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_files_are_put_moved_and_removed_in_both_places(tmp_path: Path, is_mirrored: bool) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = MirroredFolder(here, RemoteFolder(f"local://{there}") if is_mirrored else None)
    places = [here, there] if is_mirrored else [here]
    folder.put("a/1", b"one")
    folder.put("a/2", b"two")
    assert folder.names("a") == ["1", "2"]
    assert folder.names("b") == []
    folder.move("a/1", "b/1")
    folder.remove("a/2")
    folder.remove("a/2")  # it is gone already
    for at in places:
        assert names_in(at) == ["b/1"]
        assert (at / "b" / "1").read_bytes() == b"one"


def test_what_is_elsewhere_alone_is_brought_and_moved(tmp_path: Path) -> None:
    remote = RemoteFolder(f"local://{tmp_path}/there")
    MirroredFolder(tmp_path / "another", remote).put("a/1", b"one")
    folder = MirroredFolder(tmp_path / "here", remote)
    assert folder.names("a") == ["1"]
    assert folder.fetched("a/1").read_bytes() == b"one"
    MirroredFolder(tmp_path / "a third", remote).move("a/1", "b/1")
    assert names_in(tmp_path / "there") == names_in(tmp_path / "a third") == ["b/1"]
    assert not folder.fetched("a/2").exists()


def test_a_hidden_file_is_none_of_the_folder(tmp_path: Path) -> None:
    folder = MirroredFolder(tmp_path)
    folder.put("a/1", b"one")
    (tmp_path / "a" / ".1.0f.part").write_bytes(b"o")
    assert folder.names("a") == ["1"]


@pytest.mark.parametrize("error", [OSError("the connection is lost"), KeyboardInterrupt()])
def test_a_download_that_is_cut_off_leaves_nothing_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    remote = RemoteFolder(f"local://{tmp_path}/there")
    MirroredFolder(tmp_path / "another", remote).put("a/1", b"one")
    folder = MirroredFolder(tmp_path / "here", remote)
    seen: list[list[str]] = []

    def cut_off(self: Any, there: str, here: str, **named: Any) -> None:
        Path(here).write_bytes(b"o")
        # What a kill, which runs nothing of ours any more, would leave at this moment.
        seen.append([name for name in names_in(tmp_path / "here") if not Path(name).name.startswith(".")])
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(fsspec.filesystem("local")), "get_file", cut_off)
        with pytest.raises((StoreError, KeyboardInterrupt)):
            folder.fetched("a/1")
        with pytest.raises((StoreError, KeyboardInterrupt)):
            remote.get("a", tmp_path / "here" / "a")
    assert seen == [[], []]
    assert names_in(tmp_path / "here") == []
    assert folder.fetched("a/1").read_bytes() == b"one"
