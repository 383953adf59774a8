"""Checkpoints written as a stream: one tensor in memory at a time, in shards whose sizes are planned ahead.

The layout is that of transformers: ``model.safetensors``, or ``model-00001-of-00003.safetensors`` and so on
behind ``model.safetensors.index.json``. No number that is not one goes into a model that is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, NonFiniteError, os_reason
from ..formats.safetensors import INDEX_SUFFIX


def require_finite(tensor: Tensor, name: str) -> Tensor:
    """Return a changed tensor, in the type in which it is written, as it is.

    Raises:
      NonFiniteError: it contains NaN or infinity, of the tuned model or of numbers that its type cannot hold.
    """
    # PyTorch cannot ask every type of 8 bits.
    asked = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if not bool(asked.isfinite().all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise NonFiniteError(
            f"'{name}' contains NaN or infinity once it is changed and written in {dtype}, whose largest number is "
            f"{torch.finfo(tensor.dtype).max:.5g}; expected finite weights; fix the tuned model, or leave this tensor "
            f"as it is: --exclude '{name}'"
        )
    return tensor


SHARD_BYTES = 5 * 10**9  # transformers' own limit

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written: what the header must say, and how to get it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_checkpoint(
    folder: Path,
    tensors: Sequence[PlannedTensor],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the tensors into ``folder``, in shards of at most ``shard_bytes`` (a larger tensor has its own).

    Each tensor is read when it is written, converted to its planned dtype, and let go. ``progress`` is called
    with (tensors written, tensors in all).

    Raises:
      CheckpointError: a tensor comes in another shape than was planned, or the files cannot be written.
    """
    shards = _planned_shards(tensors, shard_bytes)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    )
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(tensors))

    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, after_each=count)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
        }
        (folder / f"model{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(
    path: Path,
    tensors: Sequence[PlannedTensor],
    after_each: Callable[[], None] | None = None,
) -> None:
    """One safetensors file. The header comes first, so shapes and dtypes are those planned.

    Raises:
      CheckpointError: as :func:`write_checkpoint`.
    """
    try:
        with path.open("xb") as file:
            file.write(_header(tensors))
            for planned in tensors:
                tensor = planned.read()
                if tuple(tensor.shape) != planned.shape:
                    raise CheckpointError(
                        f"'{planned.name}' came as {tuple(tensor.shape)} and was planned as {planned.shape}; "
                        "a file changed while it was being read"
                    )
                flat = tensor.detach().to("cpu", planned.dtype).contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
                if after_each is not None:
                    after_each()
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {os_reason(error)}") from error


def _planned_shards(tensors: Sequence[PlannedTensor], shard_bytes: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def _header(tensors: Sequence[PlannedTensor]) -> bytes:
    """The length of the header in 8 bytes, little-endian, and the header, padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in tensors:
        if tensor.dtype not in _DTYPE_NAMES:
            raise CheckpointError(
                f"'{tensor.name}' has the dtype {tensor.dtype}, which is not written here; expected one of "
                f"{', '.join(_DTYPE_NAMES.values())}; convert the tensor"
            )
        end = begin + tensor.nbytes
        entries[tensor.name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def planned(name: str, tensor: Tensor) -> PlannedTensor:
    tensor = tensor.contiguous()
    return PlannedTensor(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)
