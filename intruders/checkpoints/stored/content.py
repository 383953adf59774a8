"""What the numbers of a checkpoint are, as hashes: results kept for a base count for these numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
import xxhash
from torch import Tensor

from ...errors import ChangedBaseError, ChangedFileError, IntrudersError, in_one_line
from .checkpoint import Checkpoint, StoredTensor
from .matrices import holds_experts

# By name; the matrices of a stack of experts, which are read one by one, by "name[3]".
Digests = Mapping[str, str]


def content_digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Hash every tensor of a checkpoint, in one pass that holds one tensor at a time.

    Two checkpoints have equal digests only if names, shapes, types and all numbers are equal (xxh3, 128 bits). The
    digest of a tensor that cannot be read is the reason: an audit that does not need the tensor does not fail.
    """
    digests: dict[str, str] = {}
    for name, stored in checkpoint.tensors.items():
        try:
            digests.update((part, _digest(numbers)) for part, numbers in _parts(name, stored.read()))
        except IntrudersError as error:
            digests[name] = in_one_line(error)
    return digests


def require_content(checkpoint: Checkpoint, digests: Digests) -> Checkpoint:
    """Return the checkpoint with every tensor compared with its digest when it is read.

    Raises:
      ChangedBaseError: when a tensor is read that has changed since, or is another one on this machine.
    """
    return replace(
        checkpoint,
        tensors={
            name: _compared(checkpoint.source, name, stored, digests)
            for name, stored in checkpoint.tensors.items()
        },
    )


def _compared(source: str, name: str, stored: StoredTensor, digests: Digests) -> StoredTensor:
    def changed(part: str) -> ChangedBaseError:
        return ChangedBaseError(
            f"'{part}' of '{source}' is not what it was when the work began; expected a base that stays as it is, "
            "on every machine; run the same command again when nothing writes to it"
        )

    def compared(part: str, numbers: Tensor) -> None:
        if digests.get(part) != _digest(numbers):
            raise changed(part)

    def read() -> Tensor:
        try:
            tensor = stored.read()
        except ChangedFileError as error:
            raise changed(name) from error
        for part, numbers in _parts(name, tensor):
            compared(part, numbers)
        return tensor

    read_whole_matrix: Callable[[int], Tensor] | None = stored.read_one
    if holds_experts(name, stored.shape):

        def read_one(index: int) -> Tensor:
            try:
                matrix = stored.read_slice(index)
            except ChangedFileError as error:
                raise changed(f"{name}[{index}]") from error
            compared(f"{name}[{index}]", matrix)
            return matrix

        read_whole_matrix = read_one
    return replace(stored, read=read, read_one=read_whole_matrix)


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor itself, or the matrices of a stack of experts."""
    if holds_experts(name, tuple(tensor.shape)):
        yield from ((f"{name}[{index}]", tensor[index]) for index in range(len(tensor)))
    else:
        yield name, tensor


def _digest(tensor: Tensor) -> str:
    numbers = tensor.detach().cpu().contiguous()
    digest = xxhash.xxh3_128(numbers.flatten().view(torch.uint8).numpy().data if numbers.numel() else b"")
    digest.update(f"{tuple(numbers.shape)} {numbers.dtype}".encode())
    return digest.hexdigest()
