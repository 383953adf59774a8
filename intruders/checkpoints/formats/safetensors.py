"""Safetensors: one file, or shards behind an index. Nothing a header says is used before it is checked.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, little-endian; a JSON
object from tensor names to ``{"dtype", "shape", "data_offsets"}``; then the data, without holes or overlaps.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

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
# dtype in the header -> bits of one number, and the torch dtype that holds it (None: torch has none to read
# it into).
_DTYPES: dict[str, tuple[int, torch.dtype | None]] = {
    "F64": (64, torch.float64),
    "F32": (32, torch.float32),
    "F16": (16, torch.float16),
    "BF16": (16, torch.bfloat16),
    "F8_E4M3": (8, torch.float8_e4m3fn),
    "F8_E5M2": (8, torch.float8_e5m2),
    "F8_E4M3FNUZ": (8, torch.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (8, torch.float8_e5m2fnuz),
    "F8_E8M0": (8, getattr(torch, "float8_e8m0fnu", None)),  # since PyTorch 2.7
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F4": (4, None),
    "C64": (64, torch.complex64),
    "I64": (64, torch.int64),
    "I32": (32, torch.int32),
    "I16": (16, torch.int16),
    "I8": (8, torch.int8),
    "U64": (64, torch.uint64),
    "U32": (32, torch.uint32),
    "U16": (16, torch.uint16),
    "U8": (8, torch.uint8),
    "BOOL": (8, torch.bool),
}


@dataclass(frozen=True)
class DataPlace:
    """The offset of a file's data, and when that was true."""

    offset: int
    size: int  # of the file
    changed: int  # when the file was, in nanoseconds


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor as a checked header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes, from the end of the header
    end: int
    place: DataPlace


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """The checked header of one file, in natural name order.

    Raises:
      CheckpointError: the file is missing, truncated or corrupt; the text says which length or entry is
        wrong.
    """
    try:
        stamp = path.stat()
        size = stamp.st_size
        with path.open("rb") as file:
            text = _header_text(path, size, file.read(8), file)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    header = parse_json_object(text, f"the header of '{path}'")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(path, "'__metadata__' is not an object of strings")
    data = DataPlace(8 + len(text), size, stamp.st_mtime_ns)
    entries = {name: _entry(path, name, header[name], data) for name in sorted(header, key=natural_order)}
    _check_layout(path, entries, size - 8 - len(text))
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """The ``__metadata__`` of a file whose header :func:`read_header` has accepted."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = parse_json_object(file.read(length), f"the header of '{path}'").get("__metadata__", {})
    return dict(metadata)


def safetensors_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one .safetensors file."""
    return {name: _stored(path, name, entry) for name, entry in read_header(path).items()}


def tensors_of_shards(
    index: Path, read_file: Callable[[Path], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    """The tensors of a sharded checkpoint, by its ``*.index.json``.

    Raises:
      CheckpointError: the index points outside its folder, names a missing shard, or a tensor its shard
        lacks.
    """
    where = _weight_map(index)
    shards = {shard: read_file(index.parent / shard) for shard in sorted(set(where.values()))}
    astray = [name for name, shard in where.items() if name not in shards[shard]]
    if astray:
        raise CheckpointError(
            f"'{index}' puts {some_of(astray)} into shards that do not contain them; "
            "download the checkpoint again"
        )
    return {name: shards[where[name]][name] for name in sorted(where, key=natural_order)}


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, from an index whose every entry is a file of the index's own folder."""
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
    return where


def _header_text(path: Path, size: int, prefix: bytes, file: Any) -> bytes:
    if len(prefix) < 8:
        raise _corrupt(path, f"it is {size} bytes long, and its header's length alone takes 8")
    (length,) = struct.unpack("<Q", prefix)
    if length > size - 8:
        raise _corrupt(path, f"it claims a header of {length:,} bytes in a file of {size:,}")
    if length > LARGEST_BYTES:
        raise _corrupt(path, f"it claims a header of {length:,} bytes, over the format's {LARGEST_BYTES:,}")
    text: bytes = file.read(length)
    return text


def _entry(path: Path, name: str, value: Any, data: DataPlace) -> HeaderEntry:
    if not name.isprintable():  # no library writes such names, and a terminal would obey them
        raise _corrupt(path, f"it has a tensor of the name {name[:80]!r}")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise _corrupt(path, f"the entry of '{name}' lacks dtype, shape or data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _corrupt(path, f"'{name}' has the dtype {dtype!r}, which the format does not know")
    if not _are_sizes(shape):
        raise _corrupt(path, f"'{name}' has the shape {str(shape)[:80]!r}; expected a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _corrupt(path, f"'{name}' has the data_offsets {str(offsets)[:80]!r}; expected [begin, end]")
    bits, _ = _DTYPES[dtype]
    # Python's integers do not overflow, so that a product past 64 bits is simply unequal to the bytes there.
    if prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
        raise _corrupt(
            path, f"'{name}' is {dtype} of shape {shape} and cannot be {offsets[1] - offsets[0]:,} bytes long"
        )
    return HeaderEntry(dtype, tuple(shape), offsets[0], offsets[1], data)


def _are_sizes(value: Any) -> bool:
    """Return whether it is a short list of integers that fit a signed 64-bit word (a bool is none)."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(item) is int and 0 <= item < 2**63 for item in value)
    )


def _check_layout(path: Path, entries: dict[str, HeaderEntry], data_bytes: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position, previous = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            relation = "overlaps" if entry.begin < position else "leaves a hole after"
            raise _corrupt(path, f"'{name}' {relation} '{previous}'")
        position, previous = entry.end, name
    if position != data_bytes:
        raise _corrupt(path, f"its tensors take {position:,} bytes, and it has {data_bytes:,}")


def _stored(path: Path, name: str, entry: HeaderEntry) -> StoredTensor:
    _, dtype = _DTYPES[entry.dtype]
    return StoredTensor(
        entry.shape,
        dtype or torch.uint8,
        entry.dtype,
        lambda: _read(path, name, entry, None),
        lambda index: _read(path, name, entry, index),
    )


def _read(path: Path, name: str, entry: HeaderEntry, index: int | None) -> Tensor:
    """Open the file again, so that the pages of a tensor that is no longer needed do not stay mapped."""
    from safetensors import SafetensorError, safe_open

    if _DTYPES[entry.dtype][1] is None:
        raise CheckpointError(
            f"'{name}' in '{path}' is {entry.dtype}, which torch cannot widen; save it as BF16"
        )
    if index is None and 0 < entry.end - entry.begin <= _SMALL:
        small = _read_small(path, entry)
        if small is not None:
            return small
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name) if index is None else file.get_slice(name)[index]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{name}' cannot be read from '{path}': {first_line(error)}") from None
    require_unchanged(path, entry.place.size, entry.place.changed)
    return tensor


def require_unchanged(path: Path, size: int, changed: int) -> None:
    """Refuse a file that was written or replaced since it was opened, if only with tensors of the same shapes.

    It had ``size`` bytes then, and had been written last at ``changed``, in nanoseconds.

    Raises:
      ChangedFileError: it is another one now, so that what was read before is of another model.
    """
    try:
        now = path.stat()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    if (now.st_size, now.st_mtime_ns) != (size, changed):
        raise ChangedFileError(
            f"'{path}' changed while it was being read; expected a file that stays as it is; run the same command "
            "again when nothing writes to it"
        )


def _read_small(path: Path, entry: HeaderEntry) -> Tensor | None:
    """The tensor from its bytes, without another look at the header; None where the file has changed since."""
    _, dtype = _DTYPES[entry.dtype]
    assert dtype is not None
    data = bytearray(entry.end - entry.begin)
    try:
        with path.open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns) != (entry.place.size, entry.place.changed):
                return None
            file.seek(entry.place.offset + entry.begin)
            if file.readinto(data) != len(data):
                return None
    except OSError:
        return None
    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)


def _corrupt(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"'{path}' is not a complete safetensors file: {what}; download it again")
