"""PyTorch's own files: what torch.save wrote is read, and nothing in them is run."""

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.errors import ChangedFileError, CheckpointError
from tests.checkpoints.models import differing, refused, tiny_llama


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_one_file(tmp_path: Path, name: str) -> None:
    state = tiny_llama().to(torch.bfloat16).state_dict()
    torch.save(state, tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        checkpoint = open_checkpoint(source)
        assert checkpoint.format == "pytorch"
        assert checkpoint.names() == list(state)
        assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in state.items())
    different = differing(tmp_path, tiny_llama(1).state_dict())
    assert len(different) == 14


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_weights_beside_a_training_loops_state(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: {"a.weight": torch.ones(2, 2), "step": 1}, "lr": [0.1]}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt").names() == ["a.weight"]


@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_a_file_that_is_replaced_after_it_was_opened(tmp_path: Path, name: str) -> None:
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "x.bin")
    stored = open_checkpoint(tmp_path / "x.bin").tensors["a.weight"]
    torch.save({name: torch.ones(2, 2)}, tmp_path / "other.bin")
    os.utime(tmp_path / "other.bin", ns=(0, (tmp_path / "x.bin").stat().st_mtime_ns + 1))
    (tmp_path / "other.bin").replace(tmp_path / "x.bin")
    with refused(r"x\.bin' changed while it was being read; expected", ChangedFileError):
        stored.read()


class Attack:
    """A pickle of this runs a command when it is loaded without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    content = {"a.weight": torch.ones(2, 2), "b": Attack(tmp_path / "trace")}
    torch.save(content, tmp_path / "x.bin")
    (tmp_path / "y.bin").write_bytes(pickle.dumps(Attack(tmp_path / "trace")))
    for name, said in (
        ("x", r"wants code that is not run here .*save it as safetensors"),
        ("y", "it begins with"),
    ):
        with refused(said):
            open_checkpoint(tmp_path / f"{name}.bin")
    assert not (tmp_path / "trace").exists()


def save_old(content: object, path: Path) -> None:
    """As ``torch.save`` wrote it before PyTorch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_from_before_pytorch_1_6(tmp_path: Path, dtype: torch.dtype) -> None:
    state = tiny_llama().to(dtype).state_dict()
    state["half.weight"] = state["lm_head.weight"].T[:3]  # a view of another's numbers
    save_old(state, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names() == list(state)
    assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in state.items())
    assert torch.equal(checkpoint.tensors["half.weight"].read_slice(1), state["half.weight"][1])


def test_no_old_pickle_runs_code(tmp_path: Path) -> None:
    """Each of the pickles that an old file consists of may be the one that wants more."""
    trace = tmp_path / "trace"
    whole = tmp_path / "whole.bin"
    save_old({"a.weight": torch.ones(2, 2)}, whole)
    content, attack = whole.read_bytes(), pickle.dumps(Attack(trace), protocol=2)
    ends = [at + 1 for at in range(len(content)) if content[at : at + 1] == b"."]
    for end in [0, *ends]:
        (tmp_path / "x.bin").write_bytes(content[:end] + attack + content[end:])
        with contextlib.suppress(CheckpointError):
            open_checkpoint(tmp_path / "x.bin")
    assert not trace.exists()


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as archive,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in archive.namelist():
            packed.writestr(record, archive.read(record))
    with refused(r"compressed records, which torch\.save never writes"):
        open_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(2**20, 2**20), torch.eye(3).to_sparse()],
    ids=["larger than the file", "sparse"],
)
def test_tensors_that_are_not_in_the_file(tmp_path: Path, tensor: Tensor) -> None:
    torch.save({"a": tensor}, tmp_path / "x.pt")
    with refused(r"more than a file of|is not a plain tensor of numbers"):
        open_checkpoint(tmp_path / "x.pt")


def test_files_without_tensors(tmp_path: Path) -> None:
    for value in ([1, 2], {"a": 1}, {}, torch.ones(2)):
        torch.save(value, tmp_path / "x.pt")
        with refused("expected names mapped to tensors"):
            open_checkpoint(tmp_path / "x.pt")
