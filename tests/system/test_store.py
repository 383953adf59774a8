"""What is kept is found again, here and under a URL, and nothing that is cut off or of other settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import StoreError
from intruders.system import files
from intruders.system.store import Kept, Store, is_url

fsspec = pytest.importorskip("fsspec")


def test_what_is_a_folder_and_what_a_url() -> None:
    assert is_url("s3://bucket/a")
    assert is_url("gs://bucket")
    for out in ("runs/a", "/abs/runs", "file:///abs/runs"):
        assert not is_url(out)
        assert Store.at(out, "studies") == Store(Path(out.removeprefix("file://")))


def test_a_store_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "run.json").write_text("{}")
    with pytest.raises(StoreError, match=r"failed to write run\.json") as caught:
        Store(tmp_path / "here", f"local://{tmp_path}/file").send("run.json")
    assert "\n" not in str(caught.value)


def names_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_files_are_put_moved_and_removed_in_both_places(tmp_path: Path, is_mirrored: bool) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = Store(here, f"local://{there}" if is_mirrored else None)
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
    remote = f"local://{tmp_path}/there"
    Store(tmp_path / "another", remote).put("a/1", b"one")
    folder = Store(tmp_path / "here", remote)
    assert folder.names("a") == ["1"]
    assert folder.fetched("a/1").read_bytes() == b"one"
    Store(tmp_path / "a third", remote).move("a/1", "b/1")
    assert names_in(tmp_path / "there") == names_in(tmp_path / "a third") == ["b/1"]
    assert not folder.fetched("a/2").exists()


def test_a_hidden_file_is_none_of_the_folder(tmp_path: Path) -> None:
    folder = Store(tmp_path)
    folder.put("a/1", b"one")
    (tmp_path / "a" / ".1.0f.part").write_bytes(b"o")
    assert folder.names("a") == ["1"]


@pytest.mark.parametrize("error", [OSError("the connection is lost"), KeyboardInterrupt()])
def test_a_download_cut_off_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    remote = f"local://{tmp_path}/there"
    Store(tmp_path / "another", remote).put("a/1", b"one")
    folder = Store(tmp_path / "here", remote)
    seen: list[list[str]] = []

    def cut_off(self: Any, there: str, here: str, **named: Any) -> None:
        Path(here).write_bytes(b"o")
        # What a kill would leave at this moment.
        seen.append([name for name in names_in(tmp_path / "here") if not Path(name).name.startswith(".")])
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(fsspec.filesystem("local")), "get_file", cut_off)
        with pytest.raises((StoreError, KeyboardInterrupt)):
            folder.fetched("a/1")
        with pytest.raises((StoreError, KeyboardInterrupt)):
            folder.bring("a")
    assert seen == [[], []]
    assert names_in(tmp_path / "here") == []
    assert folder.fetched("a/1").read_bytes() == b"one"


def test_a_value_is_found_by_all_that_it_depends_on_and_by_nothing_else(tmp_path: Path) -> None:
    kept = Kept(tmp_path, {"weights": "a", "layers": (1, 2)})
    made: list[float] = []

    def make() -> list[float]:
        made.append(1 / 3)
        return [*made, float("inf")]

    assert [kept.once({"part": 1}, list[float], make) for _ in range(2)] == [[1 / 3, float("inf")]] * 2
    assert kept.get({"part": 2}) is None
    assert Kept(tmp_path, {"weights": "b", "layers": (1, 2)}).get({"part": 1}) is None
    assert Kept(None).once({"part": 1}, list[float], make) == [1 / 3, 1 / 3, float("inf")]
    [file] = (tmp_path / "evaluations").iterdir()
    record = json.loads(file.read_text())
    for other in ("", "{", "[]", json.dumps(record | {"unit": 3}), json.dumps(record | {"value": "text"})):
        file.write_text(other)
        assert kept.get({"part": 1}, list[float]) is None


def test_a_value_is_the_old_one_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    kept.put({}, "old")
    monkeypatch.setattr(files.os, "replace", lambda part, target: part.unlink())
    kept.put({}, "new")
    assert kept.get({}, str) == "old"
