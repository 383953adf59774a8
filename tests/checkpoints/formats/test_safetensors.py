"""The safetensors reader against files of the safetensors package, and against files that lie."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from intruders.checkpoints.formats.safetensors import read_header, safetensors_file
from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.errors import ChangedFileError
from tests.checkpoints.models import refused

DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
DTYPES += ["int64", "int32", "int16", "int8", "uint8", "bool"]


def write_raw(path: Path, header: Any, data: bytes) -> Path:
    """A file with any header over any data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_as_the_package_wrote_it(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    save_file(
        {"a": tensor, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}, tmp_path / "x.safetensors"
    )
    stored = safetensors_file(tmp_path / "x.safetensors")
    assert stored["a"].dtype == dtype
    assert stored["a"].shape == (3, 4)
    assert torch.equal(stored["a"].read().to(torch.float64), tensor.to(torch.float64))
    assert stored["empty"].read().shape == (0, 3)
    assert stored["scalar"].read().item() == 2.5


LIES = {
    "two bytes": b"ab",
    "nothing": b"",
    "a header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": struct.pack("<Q", 3) + b"abc",
    "a list": struct.pack("<Q", 2) + b"[]",
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe",
    "JSON nested without end": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes, mapped: bool) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with refused(r"x\.safetensors"):
        read_header(tmp_path / "x.safetensors", mapped=mapped)


ONE = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
# What the package lets through, and some of what it does not; the fuzz tries the rest.
WRONG_ENTRIES: dict[str, tuple[Any, int, str]] = {
    "offsets past the file": ({"a": entry()}, 8, ""),
    "a product past 64 bits": ({"a": entry(shape=(2**62, 2**62))}, 16, ""),
    "a size past 64 bits": ({"a": entry(shape=(2**64, 0), offsets=(0, 0))}, 0, ""),
    "a shape of a thousand dimensions": (
        {"a": entry(shape=[1] * 1000, offsets=(0, 4))},
        4,
        "'a' has the shape",
    ),
    "overlapping tensors": ({"a": entry(), "b": entry(offsets=(8, 24))}, 24, "invalid offset for tensor `b`"),
    "a name that a terminal would obey": (
        {"a\x1b[2J\n": entry()},
        16,
        r"a tensor of the name 'a\\x1b\[2J\\n'",
    ),
    "a name twice": (b"{" + ONE + b", " + ONE + b"}", 4, "is in it twice"),
}


@pytest.mark.parametrize(("header", "size", "said"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES.keys())
def test_entries_that_cannot_be(tmp_path: Path, header: Any, size: int, said: str) -> None:
    with refused(rf"x\.safetensors' is not .*{said}"):
        read_header(write_raw(tmp_path / "x.safetensors", header, bytes(size)))


def test_one_tensor_in_memory_at_a_time(tmp_path: Path) -> None:
    """In a process of its own: eight tensors of 32 MiB are read, and the peak grows by two of them at most."""
    save_file({f"a{index}": torch.rand(2**23) for index in range(8)}, tmp_path / "x.safetensors")
    program = (
        "import resource, sys\n"
        "from intruders.checkpoints.opening.open import open_checkpoint\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "checkpoint = open_checkpoint(sys.argv[1])\n"
        "checkpoint.read('a0')[:10].sum()\n"
        "before = peak()\n"
        "for name in checkpoint.names():\n"
        "    checkpoint.read(name).sum()\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x.safetensors")]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 64 + 8, f"{grown} MiB"


@pytest.mark.parametrize("rows", [2, 2**20 + 1], ids=["small", "large"])
@pytest.mark.parametrize("index", [None, 1])
def test_a_file_that_is_replaced_after_its_header_was_read(
    tmp_path: Path, rows: int, index: int | None
) -> None:
    """Names and shapes are those of the header: the numbers would be another model's."""
    file, other = tmp_path / "x.safetensors", tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(rows, 1)}, file)
    stored = safetensors_file(file)["a"]
    assert not stored.read().any()
    save_file({"a": torch.ones(rows, 1)}, other)
    os.utime(other, ns=(0, file.stat().st_mtime_ns + 1))  # in the same tick of the clock it would be the same
    os.replace(other, file)
    with refused(r"x\.safetensors' changed while it was being read; expected", ChangedFileError):
        stored.read() if index is None else stored.read_slice(index)


FORM = "model-0000{}-of-00002.safetensors"
TENSORS = {f"layers.{layer}.weight": torch.randn(3, 4) for layer in range(3)}


def sharded(folder: Path, save: Callable[[Any, Path], None] = save_file, form: str = FORM) -> list[Path]:
    """Write two shards: the first two tensors, and the third."""
    names, files = list(TENSORS), [folder / form.format(number) for number in (1, 2)]
    for file, part in zip(files, (names[:2], names[2:]), strict=True):
        save({name: TENSORS[name] for name in part}, file)
    return files


def write_index(index: Path, weight_map: Any) -> None:
    index.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("save", "form"),
    [(save_file, FORM), (torch.save, "pytorch_model-0000{}-of-00002.bin")],
    ids=["safetensors", "pickles"],
)
def test_one_shard_stands_for_the_whole_model_by_its_index_and_is_refused_without_it(
    tmp_path: Path, save: Callable[[Any, Path], None], form: str
) -> None:
    """A download that was interrupted leaves one shard, and maybe no index."""
    first, shard = sharded(tmp_path, save, form)
    index = tmp_path / (form.replace("-0000{}-of-00002", "") + ".index.json")
    write_index(index, {name: (first, first, shard)[number].name for number, name in enumerate(TENSORS)})
    for path in (tmp_path, shard):
        checkpoint = open_checkpoint(path)
        assert checkpoint.names() == list(TENSORS)
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in TENSORS.items())
    before = digest_of(str(shard))
    first.unlink()
    assert digest_of(str(shard)) != before
    with refused(f"names shards that are not there: '{first.name}'"):
        open_checkpoint(shard)
    index.unlink()
    for path in (shard, tmp_path):
        with refused(
            rf"'.*{shard.name}' is one part of a model, and the index '{index.name}' of its parts is missing from "
            "its folder; download the checkpoint again"
        ):
            open_checkpoint(path)
    # A model that fits into one shard is whole.
    shard.rename(tmp_path / shard.name.replace("00002-of-00002", "00001-of-00001"))
    assert open_checkpoint(tmp_path).names() == ["layers.2.weight"]


PLAIN = "expected the plain name of a file"
WRONG_MAPS = {
    "a missing shard": ({"layers.0.weight": "model-00003-of-00003.safetensors"}, "shards that are not there"),
    "a shard above the folder": ({"layers.0.weight": "../model.safetensors"}, PLAIN),
    "an absolute shard": ({"layers.0.weight": "/etc/passwd"}, PLAIN),
    "a Windows path": ({"layers.0.weight": "..\\model.safetensors"}, PLAIN),
    "a number": ({"layers.0.weight": 1}, PLAIN),
    "another shard": (
        {"layers.2.weight": "model-00001-of-00002.safetensors"},
        "shards that do not contain them",
    ),
    "a list": ([1], "no 'weight_map' object"),
    "nothing": ({}, "no 'weight_map' object"),
}


@pytest.mark.parametrize(("weight_map", "text"), WRONG_MAPS.values(), ids=WRONG_MAPS.keys())
def test_indexes_that_lie(tmp_path: Path, weight_map: Any, text: str) -> None:
    sharded(tmp_path)
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    with refused(text):
        open_checkpoint(tmp_path)
