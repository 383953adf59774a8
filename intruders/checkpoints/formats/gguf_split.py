"""A GGUF model that llama.cpp split into several files, read as the one that it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from ...errors import CheckpointError, some_of
from ..stored.split_names import split_names
from .gguf_layout import GgufLayout, read_gguf_layout


def read_whole_layout(path: Path) -> GgufLayout:
    """The layout of the model of which a file is all or a part, with the metadata of its first file.

    Raises:
      CheckpointError: a file is not a complete GGUF file, or the folder does not have all files of the model.
    """
    layout = read_gguf_layout(path)
    count = layout.number("split.count") or 1
    if count < 2:
        return layout
    names = split_names(path.name)
    if len(names) != count:
        raise CheckpointError(
            f"'{path}' is one of {count} files of one model; expected a name such as "
            f"'model-00001-of-{count:05d}.gguf'; give all of them the names that they came with"
        )
    lost = [name for name in names if not (path.parent / name).is_file()]
    if lost:
        raise CheckpointError(
            f"'{path}' is one of {count} files of one model, and its folder lacks {some_of(lost)}; "
            "download all of them into one folder"
        )
    files = [path.parent / name for name in names]
    layouts = [layout if file == path else read_gguf_layout(file) for file in files]
    for number, (file, part) in enumerate(zip(files, layouts, strict=True)):
        if (part.number("split.no"), part.number("split.count")) != (number, count):
            raise CheckpointError(
                f"'{file}' is not file {number + 1} of the {count} of one model, as its name has it; download it again"
            )
    tensors = [tensor for part in layouts for tensor in part.tensors]
    expected = layout.number("split.tensors.count")
    twice = [name for name, times in Counter(tensor.name for tensor in tensors).items() if times > 1]
    if twice or expected not in (None, len(tensors)):
        raise CheckpointError(
            f"'{path}' is one of {count} files of one model, which have {len(tensors)} tensors, {len(twice)} of them "
            f"twice; expected {expected}; download all of them again"
        )
    return replace(layouts[0], tensors=tensors)
