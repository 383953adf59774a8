"""Bytes and words that would pass for weights, or for no weights, although a scale is stored with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor


def refuse_codes(tensors: Mapping[str, StoredTensor], parts: set[str]) -> None:
    """Refuse matrices and stacks of bytes, not among the ``parts`` of restored weights, that have a scale.

    Raises:
      CheckpointError: there is such a tensor; the text names it and the scale.
    """
    scales: dict[str, list[str]] = {}
    for name in tensors:
        module, _, last = name.rpartition(".")
        if "scale" in last and name not in parts:
            scales.setdefault(module, []).append(name)
    for name, stored in tensors.items():
        if name in parts or not _may_be_codes(name, stored):
            continue
        module, _, last = name.rpartition(".")
        # A parameter of another name may lie beside a scale that is a weight itself, as CLIP's do beside logit_scale.
        is_weight = last == "weight" or (stored.dtype.is_floating_point and len(stored.shape) > 2)
        beside = [scale for scale in scales.get(module, []) if is_weight or last in scale.rpartition(".")[2]]
        beside += scales.get(name, [])
        if beside:
            raise CheckpointError(
                f"'{name}' is {stored.stored_as} of shape {stored.shape} with the scale '{beside[0]}', which is not "
                "restored here; pass the model before it was quantized"
            )


def refuse_packed(tensors: Mapping[str, StoredTensor], source: str) -> None:
    """Refuse words of packed integers with ``scales``, in a checkpoint whose config names no method.

    Their scales would pass for the model's matrices.

    Raises:
      CheckpointError: there are such words; the text names the program that makes them.
    """
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


def _may_be_codes(name: str, stored: StoredTensor) -> bool:
    return (
        stored.dtype.itemsize == 1
        and stored.dtype != torch.bool
        and len(stored.shape) > 1
        and "scale" not in name.rpartition(".")[2]
    )
