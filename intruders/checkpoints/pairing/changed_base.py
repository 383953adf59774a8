"""A base as full checkpoints beside it changed it: what the adapters of the same sum act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..adapters.formulas import widened
from ..checkpoint import Checkpoint, StoredTensor
from .matching import match_names


def with_checkpoints(base: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """W1 = W0 + sum_i (W_i - W0) under the base's names: of a single checkpoint its own tensors, as stored.

    A tensor that a checkpoint lacks, or has in another shape, stays the base's.
    """
    shapes = {name: stored.shape for name, stored in base.tensors.items()}
    others: dict[str, list[StoredTensor]] = {name: [] for name in shapes}
    for checkpoint in checkpoints:
        matching = match_names(shapes, {name: stored.shape for name, stored in checkpoint.tensors.items()})
        for name, other in matching.tuned_of.items():
            if checkpoint.tensors[other].shape == shapes[name]:
                others[name].append(checkpoint.tensors[other])
    tensors = {name: _changed(stored, others[name]) for name, stored in base.tensors.items()}
    return replace(base, tensors=tensors)


def _changed(stored: StoredTensor, others: list[StoredTensor]) -> StoredTensor:
    if len(others) < 2:
        return others[0] if others else stored

    def read() -> Tensor:
        before = widened(stored.read())
        return before + sum((widened(other.read()) - before for other in others), before.new_zeros(()))

    return replace(stored, read=read, read_one=None)
