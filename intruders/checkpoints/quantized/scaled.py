"""FP8 and INT8 weights with scales: one for the tensor, one a row, one a group of columns, or one a block."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor

_DEFAULT_BLOCK = (128, 128)  # DeepSeek's, where a config does not say


def scaled_weights(
    tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]
) -> tuple[dict[str, StoredTensor], set[str]]:
    """W = (q - zero) * scale, from ``weight`` and ``weight_scale`` or ``weight_scale_inv`` (no inverse)."""
    weights: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for key, scale in tensors.items():
        name = key.removesuffix("_scale_inv") if key.endswith("_scale_inv") else key.removesuffix("_scale")
        weight = tensors.get(name)
        if weight is None or name == key or weight.dtype.itemsize != 1 or len(weight.shape) != 2:
            continue
        if f"{name}_scale_2" in tensors:
            raise CheckpointError(
                f"'{name}' is packed in 4 bits (NVFP4), which is not restored here; pass the model before it was "
                "quantized"
            )
        zero = tensors.get(f"{name}_zero_point")
        block = _block(settings) if key.endswith("_scale_inv") else None
        for part, stored in (("scale", scale), ("zero point", zero)):
            if stored is not None:
                _require_fit(name, part, stored.shape, weight.shape, block)
        weights[name] = _scaled(weight, scale, zero, block)
        used |= {name, key, f"{name}_zero_point", f"{name.rpartition('.')[0]}.input_scale"}
    return weights, used


def _scaled(
    weight: StoredTensor, scale: StoredTensor, zero: StoredTensor | None, block: tuple[int, int] | None
) -> StoredTensor:
    def read() -> Tensor:
        values = weight.read().to(torch.float32)
        if zero is not None:
            values = values - spread(zero.read().to(torch.float32), weight.shape, block)
        return values * spread(scale.read().to(torch.float32), weight.shape, block)

    return StoredTensor(weight.shape, torch.float32, f"{weight.stored_as} with scales", read)


def spread(scale: Tensor, shape: tuple[int, ...], block: tuple[int, int] | None) -> Tensor:
    """A scale for every weight (m, n), from one, (m), (m, 1), (m, groups), or (blocks, blocks)."""
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.dim() == 1:
        return scale.reshape(-1, 1)
    rows, columns = block or (ceil(shape[0] / scale.shape[0]), ceil(shape[1] / scale.shape[1]))
    wide = scale.repeat_interleave(rows, dim=0)[: shape[0]]
    return wide.repeat_interleave(columns, dim=1)[:, : shape[1]]


def _require_fit(
    name: str, part: str, given: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] | None
) -> None:
    if all(size == 1 for size in given) or given == (shape[0],):
        return
    if block is not None:
        fits = given == (ceil(shape[0] / block[0]), ceil(shape[1] / block[1]))
    else:
        fits = len(given) == 2 and all(
            count and size % count == 0 for count, size in zip(given, shape, strict=True)
        )
    if not fits:
        raise CheckpointError(
            f"'{name}' of shape {shape} has a {part} of shape {given}; "
            "expected one number, one a row, or one a group that divides it"
        )


def _block(settings: Mapping[str, Any]) -> tuple[int, int]:
    value = settings.get("weight_block_size")
    if isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    return _DEFAULT_BLOCK
