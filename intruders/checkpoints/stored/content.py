"""What the numbers of a checkpoint are, as hashes: results kept for a base count for these numbers alone."""

from collections.abc import Iterable, Mapping
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
    """The checkpoint, of which reading a tensor that has not its digest any more raises ChangedBaseError."""

    def compared(name: str, stored: StoredTensor) -> StoredTensor:
        def changed(part: str) -> ChangedBaseError:
            return ChangedBaseError(
                f"'{part}' of '{checkpoint.source}' is not what it was when the work began; expected a base that stays "
                "as it is, on every machine; run the same command again when nothing writes to it"
            )

        def read(index: int | None = None) -> Tensor:
            whole = name if index is None else f"{name}[{index}]"
            try:
                tensor = stored.read() if index is None else stored.read_slice(index)
            except ChangedFileError as error:
                raise changed(whole) from error
            for part, numbers in _parts(name, tensor) if index is None else [(whole, tensor)]:
                if digests.get(part) != _digest(numbers):
                    raise changed(part)
            return tensor

        read_one = read if holds_experts(name, stored.shape) else stored.read_one
        return replace(stored, read=read, read_one=read_one)

    tensors = {name: compared(name, stored) for name, stored in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


def _parts(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    if holds_experts(name, tuple(tensor.shape)):
        return [(f"{name}[{index}]", matrix) for index, matrix in enumerate(tensor)]
    return [(name, tensor)]


def _digest(tensor: Tensor) -> str:
    numbers = tensor.detach().cpu().contiguous()
    digest = xxhash.xxh3_128(numbers.flatten().view(torch.uint8).numpy().data if numbers.numel() else b"")
    digest.update(f"{tuple(numbers.shape)} {numbers.dtype}".encode())
    return digest.hexdigest()
