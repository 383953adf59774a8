"""MXFP4, in which gpt-oss is published: 4-bit floats with one power of two for every 32 of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor

_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_BIAS = 127  # of the scales' exponents


def mxfp4_weights(
    tensors: Mapping[str, StoredTensor], settings: Mapping[str, Any]
) -> tuple[dict[str, StoredTensor], set[str]]:
    """``w`` (e, in, out) as transformers holds it, from ``w_blocks`` (e, out, in / 32, 16) and ``w_scales``."""
    weights: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for key, blocks in tensors.items():
        name = key.removesuffix("_blocks")
        scales = tensors.get(f"{name}_scales")
        if name == key or scales is None:
            continue
        bytes_only = blocks.dtype == scales.dtype == torch.uint8
        if (
            not bytes_only
            or len(blocks.shape) != 4
            or blocks.shape[3] != 16
            or scales.shape != blocks.shape[:3]
        ):
            raise CheckpointError(
                f"'{key}' has the shape {blocks.shape} and its scales {scales.shape}; expected bytes "
                "(experts, out, blocks, 16) and (experts, out, blocks)"
            )
        weights[name] = _weight(blocks, scales)
        used |= {key, f"{name}_scales"}
    return weights, used


def _weight(blocks: StoredTensor, scales: StoredTensor) -> StoredTensor:
    experts, outputs = blocks.shape[:2]
    inputs = prod(blocks.shape[2:]) * 2

    def read_one(index: int) -> Tensor:
        pairs = blocks.read_slice(index).long()  # (out, blocks, 16), the first number in the low bits
        codes = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(2)  # (out, blocks, 32)
        power = scales.read_slice(index).to(torch.int32).unsqueeze(-1) - _BIAS
        return torch.ldexp(torch.tensor(_VALUES)[codes], power).reshape(outputs, inputs).mT

    def read() -> Tensor:
        return torch.stack([read_one(index) for index in range(experts)])

    return StoredTensor((experts, inputs, outputs), torch.float32, "MXFP4", read, read_one)
