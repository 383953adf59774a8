"""Safetensors: one file, or shards behind an index. The package checks a header before anything in it is used.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, little-endian; a JSON
object from tensor names to ``{"dtype", "shape", "data_offsets"}``; then the data, without holes or overlaps.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ChangedFileError, CheckpointError, first_line, os_reason, some_of
from ..stored.checkpoint import StoredTensor
from ..stored.json_file import LARGEST_BYTES, parse_json_object, read_json_object
from ..stored.names import natural_order

INDEX_SUFFIX = ".safetensors.index.json"

# Tensors up to this size in bytes, as an adapter's, are read from their place: safetensors' own reader parses the whole
# header for each, which takes several times as long.
_SMALL = 2**22
# dtype in the header -> the torch dtype that holds it. torch has none to read other ones into.
DTYPES: dict[str, torch.dtype | None] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", None),  # since PyTorch 2.7
    "C64": torch.complex64,
    "BOOL": torch.bool,
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (64, 32, 16, 8)},
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (64, 32, 16, 8)},
}


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor as a checked header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes, from the start of the file
    end: int
    stamp: os.stat_result  # of the file when that was true


def read_header(path: Path, *, mapped: bool = True) -> dict[str, HeaderEntry]:
    """The header of one file, in natural name order; checked by safetensors where it may be ``mapped`` into memory."""
    from safetensors import SafetensorError, safe_open

    try:
        stamp = path.stat()
        if mapped:
            with safe_open(path, framework="pt"):
                pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            text = file.read(min(length, LARGEST_BYTES))
        if len(text) < length:
            raise ValueError("its header does not end within the file")
        header = parse_json_object(text, f"the header of '{path}'")
        header.pop("__metadata__", None)
        entries = {}
        for name in sorted(header, key=natural_order):
            if not name.isprintable():  # no library writes such names, and a terminal would obey them
                raise _corrupt(path, f"it has a tensor of the name {name[:80]!r}")
            shape, (begin, end) = header[name]["shape"], header[name]["data_offsets"]
            if len(shape) > 64 or max(shape, default=0) >= 2**63:  # which torch cannot make
                raise _corrupt(path, f"'{name}' has the shape {str(shape)[:80]!r}")
            dtype, start = str(header[name]["dtype"]), 8 + length
            entries[name] = HeaderEntry(dtype, tuple(shape), start + begin, start + end, stamp)
        return entries
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    except (SafetensorError, struct.error, LookupError, TypeError, ValueError) as error:
        raise _corrupt(path, first_line(error)) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The ``__metadata__`` of a file whose header :func:`read_header` has accepted."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def safetensors_file(path: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, entry in read_header(path).items():
        dtype = DTYPES.get(entry.dtype) or torch.uint8
        read = partial(_read, path, name, entry)
        tensors[name] = StoredTensor(entry.shape, dtype, entry.dtype, read, read)
    return tensors


def tensors_of_shards(
    index: Path, read_file: Callable[[Path], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    """The tensors of a sharded checkpoint by its ``*.index.json``, which may name files of its own folder alone."""
    where = read_json_object(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(
            f"'{index}' has no 'weight_map' object; expected tensor names mapped to shard files"
        )
    for name, shard in where.items():
        if not name.isprintable():
            raise CheckpointError(f"'{index}' has a tensor of the name {name[:80]!r}; download it again")
        if not isinstance(shard, str) or shard in {"", ".", ".."} or set(shard) & set("/\\:\0"):
            raise CheckpointError(
                f"'{index}' puts '{name}' into {shard!r}; "
                "expected the plain name of a file in the same folder"
            )
    missing = sorted({shard for shard in where.values() if not (index.parent / shard).is_file()})
    if missing:
        raise CheckpointError(
            f"'{index}' names shards that are not there: {some_of(missing)}; download the checkpoint again"
        )
    shards = {shard: read_file(index.parent / shard) for shard in sorted(set(where.values()))}
    astray = [name for name, shard in where.items() if name not in shards[shard]]
    if astray:
        raise CheckpointError(
            f"'{index}' puts {some_of(astray)} into shards that do not contain them; "
            "download the checkpoint again"
        )
    return {name: shards[where[name]][name] for name in sorted(where, key=natural_order)}


def _read(path: Path, name: str, entry: HeaderEntry, index: int | None = None) -> Tensor:
    """Open the file again, so that the pages of a tensor that is no longer needed do not stay mapped."""
    from safetensors import SafetensorError, safe_open

    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(
            f"'{name}' in '{path}' is {entry.dtype}, which torch cannot widen; save it as BF16"
        )
    try:
        if index is None and 0 < entry.end - entry.begin <= _SMALL:
            # From its bytes, without another look at the header, where the file has not changed since.
            data = bytearray(entry.end - entry.begin)
            with path.open("rb", buffering=0) as opened:
                opened.seek(entry.begin)
                is_same = _is_same_file(os.fstat(opened.fileno()), entry.stamp)
                if is_same and opened.readinto(data) == len(data):
                    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name) if index is None else file.get_slice(name)[index]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{name}' cannot be read from '{path}': {first_line(error)}") from None
    require_unchanged(path, entry.stamp)
    return tensor


def require_unchanged(path: Path, stamp: os.stat_result) -> None:
    """Raise ChangedFileError for a file that was written since it had this stamp: it may be of another model."""
    try:
        now = path.stat()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    if not _is_same_file(now, stamp):
        raise ChangedFileError(
            f"'{path}' changed while it was being read; expected a file that stays as it is; run the same command "
            "again when nothing writes to it"
        )


def _is_same_file(now: os.stat_result, stamp: os.stat_result) -> bool:
    return (now.st_size, now.st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)


def _corrupt(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"'{path}' is not a complete safetensors file: {what}; download it again")
