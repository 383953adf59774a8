"""Folders that are made for work."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from intruders.system.folders import make_folder, removed_if_unused


def test_a_folder_made_for_work_that_did_not_begin_is_removed_if_it_is_empty(tmp_path: Path) -> None:
    new, used, there = tmp_path / "new", tmp_path / "used", tmp_path / "there"
    there.mkdir()
    for folder in (new, used, there):
        with suppress(ValueError), removed_if_unused(folder):
            make_folder(folder)
            if folder == used:
                (folder / "kept").write_text("x")
            raise ValueError("refused")
    assert not new.exists()
    assert (used / "kept").is_file()
    assert there.is_dir()
    with removed_if_unused(new):
        make_folder(new)
    assert new.is_dir()
