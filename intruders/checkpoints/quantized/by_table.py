"""4-bit codes behind a table of 16 values: bitsandbytes' NF4 and FP4, beside its 8-bit rows, and MXFP4 of gpt-oss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ..stored.checkpoint import StoredTensor
from ..stored.json_file import parse_json_object
from .scaled import Restored, Tensors, require, unfit

_STATE = ".quant_state.bitsandbytes__"
_LARGEST_STATE = 100_000  # bytes of JSON that describe one weight; usually about a hundred


def four_bit_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """``w.weight`` = table[4 bits] * absmax of its block; doubly, absmax = table[8 bits] * absmax + offset."""
    for key in tensors:
        name, mark, kind = key.partition(_STATE)
        if not mark:
            continue
        parts = {
            part: tensors.get(f"{name}{part}")
            for part in ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
        }
        used = {key, *(f"{name}{part}" for part in parts)}
        yield name, _four_bit(name, parts, tensors[key], kind), used


def int8_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """W = int8 * SCB / 127, SCB being the largest absolute value of each row."""
    for key, scale in tensors.items():
        module, _, part = key.rpartition(".")
        name = f"{module}.weight"
        weight = tensors.get(name)
        if part != "SCB" or weight is None or weight.dtype != torch.int8:
            continue
        require(name, len(weight.shape) == 2 and prod(scale.shape) == weight.shape[0], "SCB")
        read = partial(_of_int8, weight, scale)
        restored = StoredTensor(weight.shape, torch.float32, "int8 (bitsandbytes)", read)
        yield name, restored, {key, name, f"{name}_format"}


def _of_int8(weight: StoredTensor, scale: StoredTensor) -> Tensor:
    return weight.read().to(torch.float32) * (scale.read().to(torch.float32).reshape(-1, 1) / 127)


def _four_bit(
    name: str, parts: Mapping[str, StoredTensor | None], state: StoredTensor, kind: str
) -> StoredTensor:
    packed, absmax, table, nested, nested_table = parts.values()
    require(name, prod(state.shape) <= _LARGEST_STATE, "quant_state")
    values = parse_json_object(
        bytes(state.read().to(torch.uint8).flatten().tolist()), f"the quant_state of '{name}'"
    )
    sizes, offset = values.get("shape"), values.get("nested_offset", 0.0)
    require(name, isinstance(sizes, list) and all(map(_is_size, sizes)), "shape")
    require(name, isinstance(offset, int | float) and math.isfinite(offset), "nested_offset")
    block, nested_block = (values.get(key, 1) for key in ("blocksize", "nested_blocksize"))
    require(name, _is_size(block) and _is_size(nested_block), "blocksize")
    shape: tuple[int, ...] = tuple(sizes or ())
    count, blocks = prod(shape), ceil(prod(shape) / block)
    if packed is None or absmax is None or table is None or (nested is None) != (nested_table is None):
        raise unfit(name, "a part is missing")
    require(name, packed.dtype.itemsize * prod(packed.shape) == ceil(count / 2), "codes")
    require(name, prod(absmax.shape) == blocks and prod(table.shape) == 16, "absmax and quant_map")
    if nested is not None and nested_table is not None:
        fits = prod(nested.shape) == ceil(blocks / nested_block) and prod(nested_table.shape) == 256
        require(name, fits, "nested_absmax and nested_quant_map")

    def read() -> Tensor:
        scale = absmax.read()
        if nested is not None and nested_table is not None:
            coarse = nested.read().to(torch.float32).repeat_interleave(nested_block)[: scale.numel()]
            scale = nested_table.read().to(torch.float32)[scale.flatten().long()] * coarse + offset
        pairs = packed.read().contiguous().view(torch.uint8).flatten()
        codes = torch.stack((pairs >> 4, pairs & 15), dim=1).flatten()[:count]
        each = scale.to(torch.float32).flatten().repeat_interleave(block)[:count]
        return (table.read().to(torch.float32).flatten()[codes.long()] * each).reshape(shape)

    return StoredTensor(shape, torch.float32, f"{kind} (bitsandbytes)", read)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 2**31


_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_BIAS = 127  # of the scales' exponents


def mxfp4_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """``w`` (e, in, out) as transformers holds it, from ``w_blocks`` (e, out, in / 32, 16) and ``w_scales``."""
    for key, blocks in tensors.items():
        name = key.removesuffix("_blocks")
        scales = tensors.get(f"{name}_scales")
        if name == key or scales is None:
            continue
        are_bytes = blocks.dtype == scales.dtype == torch.uint8
        fits = are_bytes and len(blocks.shape) == 4 and blocks.shape == (*scales.shape, 16)
        require(name, fits, "blocks and scales")
        yield name, _weight(blocks, scales), {key, f"{name}_scales"}


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
