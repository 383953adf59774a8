"""A checkpoint's tensors with every quantized weight restored to floating point under its own name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor
from .by_table import four_bit_weights, int8_weights, mxfp4_weights
from .scaled import Restored, Tensors, awq_weights, compressed_weights, gptq_weights, scaled_weights

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


def refuse_codes(tensors: Tensors, parts: Collection[str]) -> None:
    """Refuse matrices and stacks of bytes, not among the ``parts`` of restored weights, that have a scale."""
    scales: dict[str, list[str]] = {}
    for name in tensors:
        module, _, last = name.rpartition(".")
        if "scale" in last and name not in parts:
            scales.setdefault(module, []).append(name)
    for name, stored in tensors.items():
        module, _, last = name.rpartition(".")
        is_byte = stored.dtype.itemsize == 1 and stored.dtype != torch.bool
        if name in parts or "scale" in last or not is_byte or len(stored.shape) < 2:
            continue
        # A parameter of another name may lie beside a scale that is a weight itself, as CLIP's do beside logit_scale.
        is_weight = last == "weight" or (stored.dtype.is_floating_point and len(stored.shape) > 2)
        beside = [scale for scale in scales.get(module, []) if is_weight or last in scale.rpartition(".")[2]]
        beside += scales.get(name, [])
        if beside:
            raise CheckpointError(
                f"'{name}' is {stored.stored_as} of shape {stored.shape} with the scale '{beside[0]}', which is not "
                "restored here; pass the model before it was quantized"
            )


def refuse_packed(tensors: Tensors, source: str) -> None:
    """Refuse words of packed integers, whose scales would pass for matrices, where no config names their method."""
    for name, stored in tensors.items():
        module, _, last = name.rpartition(".")
        is_words = not stored.dtype.is_floating_point and stored.dtype.itemsize > 1
        if not is_words or f"{module}.scales" not in tensors:
            continue
        if last == "weight":
            raise CheckpointError(
                f"'{source}' is quantized with MLX ('{name}' is {stored.stored_as} with '{module}.scales'), which is "
                "not de-quantized here; pass the original base, or what mlx_lm.convert --dequantize makes of it"
            )
        if last == "qweight":
            raise CheckpointError(
                f"'{source}' is quantized ('{name}' is {stored.stored_as} with '{module}.scales'), and its config does "
                "not name the method; expected a quantization_config with its quant_method in config.json, such as "
                'the content of AutoGPTQ\'s quantize_config.json with "quant_method": "gptq"; add it, or pass the '
                "original base"
            )


_READERS: dict[str, list[Callable[[Tensors, Mapping[str, Any]], Restored]]] = {
    "bitsandbytes": [four_bit_weights, int8_weights],
    "gptq": [gptq_weights],
    "awq": [awq_weights],
    "compressed-tensors": [compressed_weights, scaled_weights],
    "fp8": [scaled_weights],
    "fbgemm_fp8": [scaled_weights],
    "modelopt": [scaled_weights],
    "mxfp4": [mxfp4_weights],
}


def restored(tensors: Tensors, config: Mapping[str, Any] | None, source: str) -> dict[str, StoredTensor]:
    """The tensors with quantized weights restored, in the order of the parts."""
    settings = quantization_of(config) or {}
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"the config of '{source}' has a quantization_config that is not an object")
    method = getattr(settings.get("quant_method"), "value", settings.get("quant_method"))
    readers = _READERS.get(str(method), [])
    if method is not None and not readers:
        raise CheckpointError(
            f"'{source}' is quantized with {str(method)[:60]!r}, which is not de-quantized here (only "
            f"{', '.join(_READERS)} are); pass the original base, or load it with transformers, call "
            "dequantize() on the model, and save that"
        )
    if method is None:  # a state dict or a bare file: the names of its parts tell
        refuse_packed(tensors, source)
        readers = [four_bit_weights, int8_weights, scaled_weights]
    weights: dict[str, StoredTensor] = {}
    weight_of: dict[str, str] = {}  # by the names of its parts
    for reader in readers:
        for name, weight, parts in reader(tensors, settings):
            weights[name] = weight
            weight_of |= dict.fromkeys(parts, name)
    refuse_codes(tensors, weight_of.keys())
    result: dict[str, StoredTensor] = {}
    for name, stored in tensors.items():
        whole = weight_of.get(name)
        result[whole or name] = _widened(stored) if whole is None else weights[whole]
    return result


def _widened(stored: StoredTensor) -> StoredTensor:
    """FP8 without a scale, in single precision: torch computes with it in no smaller type."""
    if not (stored.dtype.is_floating_point and stored.dtype.itemsize == 1):
        return stored
    return StoredTensor(
        stored.shape,
        torch.float32,
        stored.stored_as,
        lambda: stored.read().to(torch.float32),
        lambda index: stored.read_slice(index).to(torch.float32),
    )
