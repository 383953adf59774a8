"""What a config says about quantization, wherever transformers would read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..stored.checkpoint import StoredTensor

Tensors = Mapping[str, StoredTensor]
# What the reader of a format finds: name and tensor of each restored weight, and the names of the parts it is made of.
Restored = Iterator[tuple[str, StoredTensor, set[str]]]

_KEY = "quantization_config"
# The parts that may hold a language model, in which transformers looks if the config itself says nothing.
_LANGUAGE_MODELS = ("text_config", "decoder", "generator")


def quantization_of(config: Mapping[str, Any] | None) -> Any:
    """The ``quantization_config`` of a config or of the language model in it; None where there is none."""
    config = config or {}
    for part in (config, *(config.get(name) for name in _LANGUAGE_MODELS)):
        if isinstance(part, Mapping) and part.get(_KEY):
            return part[_KEY]
    return None


def drop_quantization(config: dict[str, Any]) -> None:
    """Make a config say that its weights are not quantized."""
    for part in (config, *(config.get(name) for name in _LANGUAGE_MODELS)):
        if isinstance(part, dict):
            part.pop(_KEY, None)


def weight_schemes(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How compressed-tensors quantized the weights, once for each of its groups of modules."""
    groups = settings.get("config_groups")
    schemes = [
        group.get("weights") for group in _objects(groups.values() if isinstance(groups, Mapping) else [])
    ]
    return _objects(schemes)


def _objects(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, Mapping)]
