"""The layout of a GGUF model, of one file or split into several, by gguf's own reader kept within the file.

That reader trusts what it reads: an array that claims 2^60 entries keeps it busy for ever, and one of the strings of a
vocabulary takes half a minute. (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
"""

import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from ...errors import CheckpointError, first_line, os_reason, some_of
from ..stored.locate import split_names

# Items of an array that are kept. One that says something of the model has an item a layer; vocabularies are longer.
_LONGEST_KEPT = 1024


_Value = TypeVar("_Value", int, float, str, list[Any])


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]  # as numpy and torch say it: the reverse of the file's order
    kind: GGMLQuantizationType
    file: Path
    begin: int  # bytes from the start of the file
    end: int


@dataclass(frozen=True)
class GgufLayout:
    """The contents of a checked file, with their offsets."""

    fields: dict[str, Any]  # gguf.ReaderField, without ``data`` for a long array
    tensors: list[GgufTensor]  # in the order of the file

    @property
    def architecture(self) -> str:
        return self.value("general.architecture", str) or ""

    def value(self, key: str, kind: type[_Value]) -> _Value | None:
        """What the metadata has under a key; None for a value of another type, and for a text that is none to print."""
        field = self.fields.get(key)
        try:
            value = None if field is None else field.contents()
        except UnicodeDecodeError:
            return None
        is_printable = not isinstance(value, str) or value.isprintable()
        return value if type(value) is kind and is_printable else None


class _Reader(GGUFReader):  # type: ignore[misc]
    """gguf's reader, which refuses to read past the end of the file and passes over long arrays."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends early")
        return super()._get(offset, dtype, count, override_order)

    def _push_field(self, field: Any, skip_sum: bool = False) -> int:
        if field.name in self.fields or not field.name.isprintable():
            raise ValueError(
                f"the field {field.name[:80]!r} is in it twice, or a terminal would obey its name"
            )
        size: int = super()._push_field(field, skip_sum)
        return size

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        item, count = GGUFValueType(head[0][0]), int(head[1][0])
        if count <= _LONGEST_KEPT or item == GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        size = 12
        if item == GGUFValueType.STRING:  # by their lengths alone
            content, length_at = memoryview(self.data), struct.Struct("<Q").unpack_from
            for _ in range(count):
                size += 8 + length_at(content, orig_offs + size)[0]
        else:
            size += count * np.dtype(self.gguf_scalar_to_np[item]).itemsize
        self._get(orig_offs, np.uint8, size)
        return size, head, [], [GGUFValueType.ARRAY, item]


def read_gguf_layout(path: Path) -> GgufLayout:
    """The metadata and every tensor of one file; CheckpointError for what cannot be right."""
    try:
        with np.errstate(all="ignore"):  # an offset past 64 bits
            reader = _Reader(path)
        if reader.byte_order != "I":
            raise ValueError("it is big-endian; expected little-endian")
        tensors = []
        for tensor in reader.tensors:
            if not tensor.name.isprintable():  # a terminal would obey it
                raise ValueError(f"it has a tensor of the name {tensor.name[:80]!r}")
            begin, end = tensor.data_offset, tensor.data_offset + tensor.data.nbytes
            shape = tuple(reversed(tensor.shape.tolist()))
            tensors.append(GgufTensor(tensor.name, shape, tensor.tensor_type, path, begin, end))
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    except Exception as error:  # gguf raises nearly anything for a damaged file
        raise CheckpointError(
            f"'{path}' is not a complete GGUF file: {first_line(error)}; download it again"
        ) from None
    ordered = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
    for first, second in pairwise(ordered):
        if second.begin < first.end:
            raise CheckpointError(
                f"'{path}' is not a valid GGUF file: '{second.name}' overlaps '{first.name}'; download it again"
            )
    return GgufLayout(reader.fields, tensors)


def read_whole_layout(path: Path) -> GgufLayout:
    """The layout of the model of which a file is all or a part, with the metadata of its first file."""
    layout = read_gguf_layout(path)
    count = layout.value("split.count", int) or 1
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
    numbers = [(part.value("split.no", int), part.value("split.count", int)) for part in layouts]
    tensors = [tensor for part in layouts for tensor in part.tensors]
    expected = layout.value("split.tensors.count", int) or len(tensors)
    distinct = {tensor.name for tensor in tensors}
    in_order = numbers == [(number, count) for number in range(count)]
    if not in_order or not len(distinct) == len(tensors) == expected:
        raise CheckpointError(
            f"{which}, and those in its folder are not all of them under their own names: {len(distinct)} tensors; "
            f"expected {expected}; download all of them again"
        )
    return replace(layouts[0], tensors=tensors)
