"""Split GGUF models, as gguf's own writer splits them, against the same model in one file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.writing.companions import write_companions
from intruders.errors import CheckpointError
from tests.checkpoints.gguf_files import finished, write_gguf


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """A model of 21 tensors in three files, alone in a folder."""
    folder = tmp_path / "split"
    folder.mkdir()
    write_gguf(folder / "m.gguf", "llama", each=8)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    return files


def test_every_file_and_the_folder_stand_for_the_whole_model(tmp_path: Path, split: list[Path]) -> None:
    whole = open_checkpoint(write_gguf(tmp_path / "whole.gguf", "llama"))
    for path in (*split, split[0].parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.names() == whole.names()
        assert checkpoint.config == whole.config
        assert all(torch.equal(checkpoint.read(name), whole.read(name)) for name in whole.names())


def test_config_and_tokenizer_come_from_the_first_file(
    tmp_path: Path, split: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    class NoTokenizer:
        def save_pretrained(self, folder: Path) -> None:
            pass

    asked = []

    def from_pretrained(folder: Path, gguf_file: str) -> NoTokenizer:  # the tiny files have tokens alone
        asked.append(gguf_file)
        return NoTokenizer()

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    out = tmp_path / "out"
    out.mkdir()
    write_companions(split[1], out, torch.float32, is_gguf=True)
    assert asked == [split[0].name]
    assert (out / "config.json").is_file()


def test_a_file_that_is_lacking(split: list[Path]) -> None:
    split[0].unlink()
    for path in (split[1], split[1].parent):
        with pytest.raises(
            CheckpointError, match=r"one of 3 files .* lacks 'm-00001-of-00003\.gguf'; download all"
        ):
            open_checkpoint(path)


def test_a_file_under_another_name(split: list[Path]) -> None:
    renamed = split[1].rename(split[1].with_name("second.gguf"))
    with pytest.raises(CheckpointError, match=r"'model-00001-of-00003\.gguf'; give all of them the names"):
        open_checkpoint(renamed)


def test_files_in_another_order(split: list[Path]) -> None:
    first, second = split[0].read_bytes(), split[1].read_bytes()
    split[0].write_bytes(second)
    split[1].write_bytes(first)
    with pytest.raises(CheckpointError, match="not all of them under their own names: 21 tensors"):
        open_checkpoint(split[2])


def test_a_file_of_another_model(split: list[Path]) -> None:
    writer = gguf.GGUFWriter(split[2], "llama")
    writer.add_uint16("split.no", 2)
    writer.add_uint16("split.count", 3)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    finished(writer, split[2])
    with pytest.raises(CheckpointError, match="own names: 17 tensors; expected 21"):
        open_checkpoint(split[0])
