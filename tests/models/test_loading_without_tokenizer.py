"""Folders of models that have no tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.errors import CheckpointError
from intruders.models.loading import load_tokenizer


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen2_moe", "mamba", "ctrl"])
def test_a_folder_without_a_tokenizer_is_told_by_the_path_that_was_given(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some classes of transformers make a tokenizer of nothing, others raise errors of several lines or of Python."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"^'model' has no tokenizer .*; expected .*; copy the tokenizer"
    ) as told:
        load_tokenizer(str((tmp_path / "model").resolve()))
    assert "\n" not in str(told.value)
    assert not str(told.value).endswith(": ")
