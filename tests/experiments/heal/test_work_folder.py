"""The folder beside a healing's own, in which it keeps what is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.experiments.heal.work_folder import WorkFolder


def test_the_folder_is_beside_one_that_is_given_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "healed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models" / "healed")
    assert WorkFolder.beside(Path()).folder == tmp_path / "models" / "healed.unfinished"
    assert WorkFolder.beside(Path("..")).folder == tmp_path / "models.unfinished"
    assert WorkFolder.beside(Path("new")).folder == tmp_path / "models" / "healed" / "new.unfinished"
