"""How far a LoRA's A has moved from its start: ``||A - A_0||_F / ||A_0||_F``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_FACTOR = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?A\.[^.]+(?:\.weight)?$")


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
        """Keep the factors of a model whose weights are not split over processes."""
        return cls(dict(model.named_parameters()))

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
        ratios = {f"{module}.weight": _ratio(moved, start) for module, moved, start in self._squares(tensors)}
        return {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _squares(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, float, float]]:
        """Yield module, ``||A - A_0||_F^2`` and ``||A_0||_F^2``, in double precision."""
        for name, module, tensor in _factors(tensors):
            start = self._start.get(name)
            if start is not None and start.shape == tensor.shape:
                now, then = tensor.detach().cpu().double(), start.double()
                yield module, float((now - then).square().sum()), float(then.square().sum())


def _factors(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield each factor A with its name and the name of its module."""
    for name, tensor in tensors.items():
        match = _FACTOR.match(name)
        if match is not None:
            yield name, match[1], tensor


def _ratio(moved: float, start: float) -> float | None:
    return math.sqrt(moved / start) if start > 0 else None
