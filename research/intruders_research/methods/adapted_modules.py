"""The modules of a PEFT model that have a plain LoRA: its factors, its scaling, and the base weight beneath them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intruders.linalg.low_rank import LowRank

ADAPTER = "default"


@dataclass(frozen=True)
class AdaptedModule:
    """One module with ``W = W0 + scaling B A``."""

    name: str  # in the model beneath PEFT's wrapper
    a: nn.Parameter  # (r, n)
    b: nn.Parameter  # (m, r)
    scaling: float
    base: Tensor  # the stored weight; (n, m) where the input comes first, as in GPT-2's Conv1D
    is_input_first: bool

    @property
    def weight(self) -> Tensor:
        """W0 ``(m, n)``, in double precision."""
        matrix = self.base.detach().double()
        return matrix.mT if self.is_input_first else matrix

    @property
    def update(self) -> LowRank:
        """``scaling B A``, in double precision."""
        return LowRank(self.scaling * self.b.detach().double(), self.a.detach().double())

    @torch.no_grad()
    def subtract_update(self) -> None:
        """Take the update off W0, in place."""
        rest = self.weight - self.update.dense()
        self.base.copy_(rest.mT if self.is_input_first else rest)


def adapted_modules(model: nn.Module) -> Iterator[AdaptedModule]:
    """Return every module with a LoRA of PEFT's, in the order of the model."""
    from peft.tuners.lora import LoraLayer

    base_model: Any = getattr(model, "base_model", None)
    wrapped = model if base_model is None else base_model.model
    for name, module in wrapped.named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            yield AdaptedModule(
                name,
                module.lora_A[ADAPTER].weight,
                module.lora_B[ADAPTER].weight,
                float(module.scaling[ADAPTER]),
                module.get_base_layer().weight,
                bool(getattr(module, "fan_in_fan_out", False)),
            )
