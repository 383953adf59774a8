"""A PEFT model as its base, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Turn the adapters off within the block.

    PEFT's own switch makes all of their parameters trainable when it turns them on again, also those that a method
    has frozen; the layers' flags alone do not.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):  # prompts
        with model.disable_adapter():
            yield
        return
    flags = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, flag in zip(layers, flags, strict=True):
            layer._disable_adapters = flag
