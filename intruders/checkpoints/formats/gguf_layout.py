"""The layout of a GGUF model, of one file or split into several, walked with every length checked against the file.

The ``gguf`` package's reader trusts what it reads: an array that claims 2^60 entries keeps it busy for ever. And it
makes an array of every string of a vocabulary, which takes half a minute. So the header is walked here, and by nothing
else.
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TypeVar

from ...errors import CheckpointError, os_reason, some_of
from ..stored.locate import split_names
from ..stored.names import natural_order

_T = TypeVar("_T")

_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_DEEPEST_ARRAY = 4
# Items of an array that are kept. One that says something of the model has an item a layer; vocabularies are longer.
_LONGEST_KEPT = 1024
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_WHOLE_NUMBERS, _SIGNED = {0, 1, 2, 3, 4, 5, 10, 11}, {1, 3, 5, 11}
# GGUF value type -> bytes of one value
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a checked file."""

    name: str
    shape: tuple[int, ...]  # as numpy and torch say it: the reverse of the file's order
    quantization: int  # a gguf.GGMLQuantizationType
    file: Path
    begin: int  # bytes from the start of the file
    end: int


@dataclass(frozen=True)
class GgufField:
    """One entry of the metadata, as the file has it."""

    types: tuple[int, ...]  # its GGUF value type; of an array, also that of its items
    items: list[bytes]  # one, or those of an array; none of a long or nested one
    count: int


@dataclass(frozen=True)
class GgufLayout:
    """The contents of a checked file, with their offsets."""

    architecture: str  # llama.cpp's name for it
    fields: dict[str, GgufField]
    tensors: list[GgufTensor]  # in the order of the file

    def number(self, key: str) -> int | None:
        """A whole number of the metadata; None where there is none under this key."""
        field = self.fields.get(key)
        if field is None or field.types[0] not in _WHOLE_NUMBERS:
            return None
        return int.from_bytes(field.items[0], "little", signed=field.types[0] in _SIGNED)

    def real(self, key: str) -> float | None:
        """A number in single precision of the metadata; None where there is none under this key."""
        field = self.fields.get(key)
        return None if field is None or field.types != (_FLOAT32,) else struct.unpack("<f", field.items[0])[0]

    def text(self, key: str) -> str | None:
        """A text of the metadata; None where there is none, or none to print, under this key."""
        field = self.fields.get(key)
        text = "" if field is None or field.types != (_STRING,) else field.items[0].decode(errors="replace")
        return text if text and text.isprintable() else None

    @property
    def is_adapter(self) -> bool:
        """Whether the file says that it is an adapter, and no model."""
        return self.text("general.type") == "adapter"


def read_gguf_layout(path: Path) -> GgufLayout:
    """The architecture and every tensor of one file; CheckpointError for what cannot be right."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(path, data).layout()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    except ValueError:  # mmap's word for an empty file
        raise CheckpointError(f"'{path}' is empty; expected a GGUF file") from None


class _Walk:
    """A position in the file that moves forward only, and never past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0
        self.read: dict[str, GgufField] = {}

    def layout(self) -> GgufLayout:
        if self.take(4, "magic") != b"GGUF":
            raise CheckpointError(f"'{self.path}' is not a GGUF file: it does not start with 'GGUF'")
        version = self.number("<I", "version")
        if version not in {2, 3}:
            raise self.corrupt(f"its version is {version}; expected 2 or 3, little-endian")
        tensor_count = self.number("<Q", "number of tensors")
        self.each(self.number("<Q", "number of fields"), self.one_field, "fields")
        infos = self.each(tensor_count, self.tensor_info, "tensors")
        field = self.read.get("general.architecture")
        is_text = field is not None and field.types == (_STRING,)
        architecture = self.decoded(field.items[0], "general.architecture") if field and is_text else ""
        layout = GgufLayout(architecture, self.read, [])
        alignment = layout.number("general.alignment")
        alignment = 32 if alignment is None else alignment
        if alignment <= 0 or alignment & (alignment - 1):
            raise self.corrupt(f"its alignment is {alignment}; expected a power of two")
        start = -(-self.at // alignment) * alignment
        return replace(layout, tensors=self.placed(infos, start, alignment))

    def one_field(self) -> None:
        key = self.text("key")
        if key in self.read:
            raise self.corrupt(f"the field '{key}' is in it twice")
        self.read[key] = self.value(self.number("<I", key), key, 0)

    def value(self, kind: int, key: str, depth: int) -> GgufField:
        if kind in _SCALARS:
            return GgufField((kind,), [self.take(_SCALARS[kind], key)], 1)
        if kind == _STRING:
            return GgufField((kind,), [self.take(self.number("<Q", key), key)], 1)
        if kind != _ARRAY or depth >= _DEEPEST_ARRAY:
            raise self.corrupt(f"the field '{key}' is of the unknown type {kind}")
        item = self.number("<I", key)
        count = self.number("<Q", key)
        if item in _SCALARS and count > _LONGEST_KEPT:
            self.skip(count * _SCALARS[item], key)
        elif item == _STRING and count > _LONGEST_KEPT:
            self.skip_strings(count, key)
        else:
            read = self.each(count, lambda: self.value(item, key, depth + 1), key)
            if item != _ARRAY:
                return GgufField((kind, item), [each.items[0] for each in read], count)
        return GgufField((kind, item), [], count)

    def skip_strings(self, count: int, key: str) -> None:
        """Skip an array of strings by their lengths alone: a vocabulary has hundreds of thousands."""
        at, end, length_at = self.at, len(self.data), struct.Struct("<Q").unpack_from
        if count > (end - at) // 8:
            raise self.corrupt(f"it claims {count:,} {key}, more than it has bytes left")
        for _ in range(count):
            if at + 8 > end:
                raise self.corrupt(f"it ends within '{key}'")
            at += 8 + length_at(self.data, at)[0]
        if at > end:
            raise self.corrupt(f"it ends within '{key}'")
        self.at = at

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text("tensor name")
        dimensions = self.number("<I", name)
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self.corrupt(f"'{name}' has {dimensions} dimensions; expected 1 to {_MOST_DIMENSIONS}")
        shape = tuple(reversed([self.number("<Q", name) for _ in range(dimensions)]))
        return name, shape, self.number("<I", name), self.number("<Q", name)

    def placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> list[GgufTensor]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        known = {item.value for item in GGMLQuantizationType}
        result: list[GgufTensor] = []
        for name, shape, quantization, offset in infos:
            if quantization not in known:
                raise self.corrupt(
                    f"'{name}' is quantized as number {quantization}, which gguf does not know"
                )
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(quantization)]
            if shape[-1] % block or offset % alignment:
                raise self.corrupt(
                    f"'{name}' of shape {shape} does not fit blocks of {block} at byte {offset}"
                )
            begin = start + offset
            end = begin + prod(shape) // block * block_bytes
            if end > len(self.data):
                raise self.corrupt(f"'{name}' ends at byte {end:,} of {len(self.data):,}")
            result.append(GgufTensor(name, shape, quantization, self.path, begin, end))
        ordered = sorted(result, key=lambda tensor: (tensor.begin, tensor.end, natural_order(tensor.name)))
        for first, second in pairwise(ordered):
            if second.begin < first.end:
                raise self.corrupt(f"'{second.name}' overlaps '{first.name}'")
        if len({tensor.name for tensor in result}) != len(result):
            raise self.corrupt("two tensors have the same name")
        return result

    def each(self, count: int, read: Callable[[], _T], what: str) -> list[_T]:
        # Every item takes at least one byte, so that a count past the file's end is refused before any work.
        if count > len(self.data) - self.at:
            raise self.corrupt(f"it claims {count:,} {what}, more than it has bytes left")
        return [read() for _ in range(count)]

    def text(self, what: str) -> str:
        return self.decoded(self.take(self.number("<Q", what), what), what)

    def decoded(self, raw: bytes, what: str) -> str:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt(f"a {what} is not UTF-8") from None
        if not text.isprintable():  # a terminal would obey it
            raise self.corrupt(f"a {what} is {text[:80]!r}")
        return text

    def number(self, form: str, what: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form), what))
        return int(value)

    def take(self, count: int, what: str) -> bytes:
        self.skip(count, what)
        return self.data[self.at - count : self.at]

    def skip(self, count: int, what: str) -> None:
        if count > len(self.data) - self.at:
            raise self.corrupt(f"it ends within '{what}'")
        self.at += count

    def corrupt(self, what: str) -> CheckpointError:
        return CheckpointError(f"'{self.path}' is not a complete GGUF file: {what}; download it again")


def read_whole_layout(path: Path) -> GgufLayout:
    """The layout of the model of which a file is all or a part, with the metadata of its first file."""
    layout = read_gguf_layout(path)
    count = layout.number("split.count") or 1
    if count < 2:
        return layout
    which, names = f"'{path}' is one of {count} files of one model", split_names(path.name)
    if len(names) != count:
        raise CheckpointError(
            f"{which}; expected a name such as 'model-00001-of-{count:05d}.gguf'; give all of them the names that they "
            "came with"
        )
    files = [path.parent / name for name in names]
    lost = [file.name for file in files if not file.is_file()]
    if lost:
        raise CheckpointError(
            f"{which}, and its folder lacks {some_of(lost)}; download all of them into one folder"
        )
    layouts = [layout if file == path else read_gguf_layout(file) for file in files]
    numbers = [(part.number("split.no"), part.number("split.count")) for part in layouts]
    tensors = [tensor for part in layouts for tensor in part.tensors]
    expected = layout.number("split.tensors.count") or len(tensors)
    distinct = {tensor.name for tensor in tensors}
    in_order = numbers == [(number, count) for number in range(count)]
    if not in_order or not len(distinct) == len(tensors) == expected:
        raise CheckpointError(
            f"{which}, and those in its folder are not all of them under their own names: {len(distinct)} tensors; "
            f"expected {expected}; download all of them again"
        )
    return replace(layouts[0], tensors=tensors)
