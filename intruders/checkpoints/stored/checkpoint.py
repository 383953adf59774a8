"""A checkpoint as a lazy map from tensor names to tensors, whatever the format behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from .locate import HubOrigin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file; nothing is read until ``read`` is called."""

    shape: tuple[int, ...]
    dtype: "torch.dtype"  # of what read() gives
    stored_as: str  # the format's own word for the numbers in the file: "BF16", "Q4_1", ...
    read: "Callable[[], Tensor]" = field(repr=False)
    # Reads one index of the first dimension alone.
    read_one: "Callable[[int], Tensor] | None" = field(default=None, repr=False)

    def read_slice(self, index: int) -> "Tensor":
        """``read()[index]``, without reading the rest where the format can do that."""
        return self.read()[index] if self.read_one is None else self.read_one(index)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def tensor_in_memory(tensor: "Tensor") -> StoredTensor:
    """A tensor, read to the CPU, where files are read too, so that a model on a GPU and a file go together."""
    stored_as = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(tuple(tensor.shape), tensor.dtype, stored_as, lambda: tensor.detach().cpu())


Tensors = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors by name, read one at a time."""

    source: str  # what the user gave, as text
    kind: str  # "checkpoint", "module" or "state dict"
    format: str  # "safetensors", "gguf", "pytorch", "memory": what it was read as
    # In the order of the model or, where the format has none, in natural name order.
    tensors: Tensors = field(repr=False)
    # Its config.json, or what stands for it.
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    # A name that is the same tensor as another one -> the name under which that is listed in ``tensors``.
    tied: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Weights that are stored (in, out), as transformers' Conv1D and some experts are.
    input_first: frozenset[str] = field(default=frozenset(), repr=False)
    hub: tuple[HubOrigin, ...] = ()  # the commit that it was read from, if it lies in the hub's cache
    # (tensor of its files, why not here)
    ignored: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def names(self) -> list[str]:
        return list(self.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def dtype(self, name: str) -> "torch.dtype":
        return self._tensor(name).dtype

    def read(self, name: str) -> "Tensor":
        """The tensor itself, in its own dtype. Nothing is kept: every call reads again."""
        return self._tensor(name).read()

    def _tensor(self, name: str) -> StoredTensor:
        try:
            return self.tensors[self.tied.get(name, name)]
        except KeyError:
            raise CheckpointError(
                f"'{self.source}' has no tensor '{name}'; expected one of its {len(self.tensors)} tensors"
            ) from None


def read_once(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, which keeps the tensor that was read last until another one is read; for one thread."""
    last: dict[tuple[str, int | None], Tensor] = {}

    def kept(name: str, index: int | None, read: "Callable[[], Tensor]") -> "Tensor":
        if (name, index) not in last:
            last.clear()  # its memory is free before the next one takes some
            last[name, index] = read()
        return last[name, index]

    def keeping(name: str, stored: StoredTensor) -> StoredTensor:
        read_slice = stored.read_one
        # Without a reader of single matrices, the whole tensor is kept and sliced.
        read_one = None if read_slice is None else lambda index: kept(name, index, lambda: read_slice(index))
        return replace(stored, read=lambda: kept(name, None, stored.read), read_one=read_one)

    tensors = {name: keeping(name, stored) for name, stored in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)
