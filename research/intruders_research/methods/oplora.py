"""OPLoRA: a LoRA whose update leaves the base's leading singular triplets where they are (arXiv 2510.13003).

``W = W0 + scaling (I - X X^T) B A (I - Z Z^T)`` with the k leading left and right singular vectors X and Z of W0. The
gradients of B and A are projected, and B and A themselves after every step of the optimizer. That is the same
training as with the projections in the model (the optimizer sees the same gradients, and steps are linear in what it
makes of them), but B and A are at all times those of a plain LoRA: checkpoints and the saved adapter need no folding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from intruders.engine.components import leading_components
from intruders.errors import SettingError
from intruders.linalg.operators import Dense
from intruders.training.finetune_config import FinetuneConfig

from .adapted_modules import adapted_modules


def start(model: nn.Module, config: FinetuneConfig) -> None:
    """Leave the adapter as PEFT made it; the callback projects it once it has the weights that it begins with."""


def callbacks(model: nn.Module, config: FinetuneConfig) -> list[Any]:
    """Return the callback that keeps the projections, which projects the adapter at once."""
    return [ProjectedUpdates(model, config.oplora_k)]


class ProjectedUpdates(TrainerCallback):  # type: ignore[misc]
    """Keep the updates of a model off the ``k`` leading directions of its base.

    Raises:
      SettingError: a matrix has no directions beyond the k leading ones.
    """

    def __init__(self, model: nn.Module, k: int) -> None:
        self._sides: list[tuple[nn.Parameter, Callable[[Tensor], Tensor]]] = []
        for module in adapted_modules(model):
            if min(module.weight.shape) <= k:
                raise SettingError(
                    f"oplora_k is {k}, but {module.name} is only {min(module.weight.shape)} wide, which leaves no "
                    "direction to train; lower it"
                )
            # Far below the rounding of single-precision weights.
            directions = leading_components(Dense(module.weight.double()), k, 1e-9)
            self._sides.append((module.a, _without(directions.right)))
            self._sides.append((module.b, _without(directions.left, from_left=True)))
        for parameter, without in self._sides:
            if parameter.requires_grad:
                parameter.register_hook(without)  # type: ignore[no-untyped-call]
        self._project()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._project()

    @torch.no_grad()
    def _project(self) -> None:
        for parameter, without in self._sides:
            parameter.copy_(without(parameter))


def _without(vectors: Tensor, from_left: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the map of a matrix M to ``M (I - Q Q^T)``, or ``(I - Q Q^T) M``; Q^T is given, ``(k, n)``."""
    rows = vectors.float()

    def without(matrix: Tensor) -> Tensor:
        known = rows.to(matrix.device, matrix.dtype)
        if from_left:
            return matrix - known.mT @ (known @ matrix)
        return matrix - (matrix @ known.mT) @ known

    return without
