"""What a tuned model in memory computes with: a dose for every update, and the updates that were learned anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from .dosed_model import DosedUpdate


@dataclass(frozen=True)
class TunedState:
    """``W_m = W0_m + a_m D_m``, with a learned update in the place of some of the tuned model's."""

    doses: Sequence[float]
    learned: Mapping[str, DosedUpdate] | None = None  # by the name of the matrix

    def unit(self) -> dict[str, Any]:
        """Return what a measurement of it is known again by."""
        unit: dict[str, Any] = {"doses": list(self.doses)}
        if self.learned is not None:
            unit["learned"] = _digest(self.learned)
        return unit


def parameters_of(updates: Mapping[str, DosedUpdate]) -> list[Tensor]:
    """Return the tensors of updates, in their order: both factors of one of low rank, or the matrix."""
    return [
        tensor for update in updates.values() for tensor in (update.left, update.right) if tensor is not None
    ]


def with_parameters(updates: Mapping[str, DosedUpdate], tensors: Sequence[Tensor]) -> dict[str, DosedUpdate]:
    """Return the updates with other tensors, in the order of :func:`parameters_of`."""
    rest = iter(tensors)
    return {
        name: DosedUpdate(None if update.left is None else next(rest), next(rest))
        for name, update in updates.items()
    }


def _digest(updates: Mapping[str, DosedUpdate]) -> str:
    digest = xxhash.xxh3_128()
    for tensor in parameters_of(updates):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
