"""How far a LoRA's A has moved from its start: ``||A - A_0||_F / ||A_0||_F``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ...checkpoints.formats.memory import COMPILED_WRAPPER

_FACTOR = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?A\.(?P<adapter>[^.]+)(?:\.weight)?$"
)


class StartOfA:
    """The factors A of a model's LoRA as they are now, kept to measure from.

    A script that is resumed may make another start: :mod:`intruders.training.callback.start_digests` tells whether it
    made the same one.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._start = {
            name: tensor.detach().cpu().clone() for name, _, tensor in _factors(tensors) if tensor.numel()
        }

    @classmethod
    def of(cls, model: nn.Module) -> StartOfA:
        """Keep the factors of a model's active adapters, whose weights are not split over processes.

        An adapter that is not active is not part of the update, nor does training move it.
        """
        layers = [module for module in model.modules() if hasattr(module, "lora_A")]
        active = {adapter for layer in layers for adapter in getattr(layer, "active_adapters", ())}
        factors = _factors(dict(model.named_parameters()))
        return cls({name: tensor for name, _, tensor in factors if _adapter(name) in active})

    @property
    def factors(self) -> Mapping[str, Tensor]:
        """The factors by name."""
        return self._start

    def movement(self, tensors: Mapping[str, Tensor]) -> float | None:
        """Return ``sqrt(sum ||A - A_0||_F^2 / sum ||A_0||_F^2)`` over all modules; None without a LoRA."""
        squares = list(self._squares(tensors))
        return _ratio(sum(moved for _, moved, _ in squares), sum(start for _, _, start in squares))

    def by_matrix(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Return ``||A - A_0||_F / ||A_0||_F`` by the name of the base's matrix."""
        squares: dict[str, tuple[float, float]] = {}
        for module, moved, start in self._squares(tensors):  # a module may have several active adapters
            before = squares.get(f"{module}.weight", (0.0, 0.0))
            squares[f"{module}.weight"] = before[0] + moved, before[1] + start
        ratios = {name: _ratio(moved, start) for name, (moved, start) in squares.items()}
        return {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _squares(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, float, float]]:
        """Yield module, ``||A - A_0||_F^2`` and ``||A_0||_F^2``, in double precision."""
        for name, module, tensor in _factors(tensors):
            start = self._start.get(name)
            if start is not None and start.shape == tensor.shape:
                now, then = tensor.detach().cpu().double(), start.double()
                yield module, float((now - then).square().sum()), float(then.square().sum())


def _factors(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield each factor A with its name and the name of its module, as in a model that is not compiled."""
    for name, tensor in tensors.items():
        match = _FACTOR.match(name.replace(COMPILED_WRAPPER, ""))
        if match is not None:
            yield match[0], match["module"], tensor


def _adapter(factor: str) -> str:
    """The adapter that a factor of this name belongs to."""
    match = _FACTOR.match(factor)
    assert match is not None
    return match["adapter"]


def _ratio(moved: float, start: float) -> float | None:
    return math.sqrt(moved / start) if start > 0 else None
