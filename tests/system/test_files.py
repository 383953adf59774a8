"""Files are written completely or not at all, and what cannot be written is found out before the work."""

import os
import stat
from pathlib import Path

import pytest

from intruders.errors import ResultFileError
from intruders.system.files import check_writable, read_bytes, write_atomically, write_together
from intruders.system.folders import atomic_folder
from intruders.system.store import Store, is_url


def test_check_writable_finds_out_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "old"
    check_writable("/dev/null")
    for name, said in {
        "": "is a folder", "no/a.json": "does not exist; make it first", "a\0b.json": "null",
        "a" * 300 + ".json": "file name too long",
    }.items():  # fmt: skip
        with pytest.raises(ResultFileError, match=said):
            check_writable(tmp_path / name)


def test_a_long_name_is_cut_by_bytes(tmp_path: Path) -> None:
    """A name may have 255 bytes, and these characters have three each."""
    for name in ("模" * 80 + ".json", os.fsdecode(b"\xe9" * 250)):
        file = tmp_path / name
        check_writable(file)
        write_atomically(file, b"{}")
        assert file.read_bytes() == b"{}"
        file.unlink()
    with atomic_folder(tmp_path / ("模" * 85)) as folder:
        (folder / "x").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["模" * 85]


def test_check_writable_respects_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands in for permissions, which do not bind the superuser that tests may run as.
    (tmp_path / "old.json").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResultFileError, match="read-only"):
        check_writable(tmp_path / "old.json")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ResultFileError, match="permission denied"):
        check_writable(tmp_path / "new.json")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ResultFileError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_a_kill_leaves_no_mixed_result(
    replaced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, tables = tmp_path / "result.json", [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_together(dict.fromkeys(tables, b"old"), document, b"old")
    replace, done = os.replace, iter([True] * replaced)

    def killed(part: Path, target: Path) -> None:
        if next(done, None) is None:
            raise KeyboardInterrupt
        replace(part, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_together(dict.fromkeys(tables, b"new"), document, b"new")
    assert [table.read_bytes() for table in tables] == [b"new"] * replaced + [b"old"] * (2 - replaced)
    assert not document.exists()
    write_together(dict.fromkeys(tables, b"new"), document, b"new")
    written = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == dict.fromkeys([*tables, document], b"new")


def test_a_link_is_followed_and_a_device_kept(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o600)
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real.json")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o600
    write_atomically("/dev/null", b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    reader, writer = os.pipe()
    write_atomically(f"/dev/fd/{writer}", b"new")  # as /dev/stdout, a link that names no file
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"new"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and another folder to work in: nothing may appear there."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_tilde_is_the_home_wherever_something_is_written(home: Path) -> None:
    check_writable("~/a.json")
    write_atomically("~/a.json", b"1")
    with atomic_folder("~/model") as part:
        (part / "config.json").write_text("{}")
    assert (home / "a.json").read_bytes() == read_bytes("~/a.json") == b"1"
    assert (home / "model" / "config.json").is_file()
    assert Store.at("~/study", "studies").path == home / "study"
    assert not list(Path().iterdir())


def test_a_tilde_elsewhere_in_a_path_or_before_no_user_is_a_name(home: Path) -> None:
    Path("~nobody-of-this-name").mkdir()
    write_atomically("~nobody-of-this-name/b~.json", b"2")
    assert (Path.cwd() / "~nobody-of-this-name" / "b~.json").read_bytes() == b"2"
    with pytest.raises(ResultFileError, match="does not exist"):
        check_writable("no/~/a.json")
    assert is_url("s3://team/~/bases")
    assert "~" not in Store.at("memory://team/~/bases", "shared-bases").path.name
