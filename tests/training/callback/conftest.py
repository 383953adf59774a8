"""Texts that a tiny model can be taught, and forgets."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "known"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(
            f"The text of document {number}, which the model once knew. " * 3
        )
    return folder
