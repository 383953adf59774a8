"""The folder beside a healing's own, in which it keeps what is finished."""

import shutil
from pathlib import Path

import pytest

from intruders.errors import SettingError
from intruders.experiments.work_folder import WorkFolder
from intruders.system.folders import locked_folder


def test_the_folder_is_beside_one_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "healed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models" / "healed")
    assert WorkFolder.beside(Path()).folder == tmp_path / "models" / "healed.unfinished"
    assert WorkFolder.beside(Path("..")).folder == tmp_path / "models.unfinished"
    assert WorkFolder.beside(Path("new")).folder == tmp_path / "models" / "healed" / "new.unfinished"


def test_the_folder_is_removed_while_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process could begin a healing there right after, and would lose it."""
    removed = []

    def remove(folder: Path, **_: object) -> None:
        with pytest.raises(SettingError, match="is in use by another process"), locked_folder(folder):
            pass
        removed.append(folder)
        real(folder)

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remove)
    work = WorkFolder.beside(tmp_path / "healed")
    with work.held({}, tmp_path / "healed"):
        assert work.folder.is_dir()
    assert removed == [work.folder]
    assert list(tmp_path.iterdir()) == []
