"""A checkpoint of which several readers want the same tensors in the same order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from .checkpoint import Checkpoint, StoredTensor


def read_once(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, which keeps the tensor that was read last: asked for again, it is not read again.

    One tensor is kept in memory, until another one is read. It is for one thread.
    """
    last = _Last()
    return replace(
        checkpoint,
        tensors={name: _kept(name, stored, last) for name, stored in checkpoint.tensors.items()},
    )


class _Last:
    """The tensor that was read last, and its source."""

    def __init__(self) -> None:
        self._of: tuple[str, int | None] | None = None
        self._tensor: Tensor | None = None

    def read(self, name: str, index: int | None, read: Callable[[], Tensor]) -> Tensor:
        if self._tensor is None or self._of != (name, index):
            self._tensor = None  # its memory is free before the next one takes some
            self._tensor = read()
            self._of = name, index
        return self._tensor


def _kept(name: str, stored: StoredTensor, last: _Last) -> StoredTensor:
    read_one = stored.read_one
    return replace(
        stored,
        read=lambda: last.read(name, None, stored.read),
        # Without a reader of single matrices, the whole tensor is kept and sliced.
        read_one=None if read_one is None else lambda index: last.read(name, index, lambda: read_one(index)),
    )
