"""Bytes that would pass for weights although a scale that nothing restored them by lies beside them."""

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


def _may_be_codes(name: str, stored: StoredTensor) -> bool:
    return (
        stored.dtype.itemsize == 1
        and stored.dtype != torch.bool
        and len(stored.shape) > 1
        and "scale" not in name.rpartition(".")[2]
    )
