"""What writing weights did to them, and tensors in memory as the writer takes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..checkpoints.write import PlannedTensor


@dataclass(frozen=True)
class Written:
    """What cutting ranks did, by the base's names of the matrices."""

    ranks: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative, in the Frobenius norm


def planned(name: str, tensor: Tensor) -> PlannedTensor:
    tensor = tensor.contiguous()
    return PlannedTensor(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)
