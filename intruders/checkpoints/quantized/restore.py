"""A checkpoint's tensors with every quantized weight restored to floating point under its own name.

4-bit codes behind a table of 16 values (bitsandbytes' NF4 and FP4, MXFP4 of gpt-oss) and bitsandbytes' 8-bit rows are
restored here, numbers with scales in ``scaled.py``.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor, Tensors
from ..stored.json_file import parse_json_object
from .scaled import (
    EXPONENT_BIAS,
    Restored,
    awq_weights,
    compressed_weights,
    gptq_weights,
    require,
    scaled_weights,
)

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


_STATE = ".quant_state.bitsandbytes__"
_PARTS, _NESTED = ("", ".absmax", ".quant_map"), (".nested_absmax", ".nested_quant_map")
_LARGEST_STATE = 100_000  # bytes of JSON that describe one weight; usually about a hundred


def four_bit_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """``w.weight`` = table[4 bits] * absmax of its block; doubly, absmax = table[8 bits] * absmax + offset."""
    for key in tensors:
        name, mark, kind = key.partition(_STATE)
        if mark:
            used = {key, *(f"{name}{part}" for part in (*_PARTS, *_NESTED))}
            yield name, _four_bit(name, tensors, tensors[key], kind), used


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


def _four_bit(name: str, tensors: Tensors, state: StoredTensor, kind: str) -> StoredTensor:
    require(name, all(f"{name}{part}" in tensors for part in _PARTS), "a part is missing")
    packed, absmax, table = (tensors[f"{name}{part}"] for part in _PARTS)
    nested, nested_table = (tensors.get(f"{name}{part}") for part in _NESTED)
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
    require(name, (nested is None) == (nested_table is None), "a part is missing")
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
        power = scales.read_slice(index).to(torch.int32).unsqueeze(-1) - EXPONENT_BIAS
        return torch.ldexp(torch.tensor(_VALUES)[codes], power).reshape(outputs, inputs).mT

    def read() -> Tensor:
        return torch.stack([read_one(index) for index in range(experts)])

    return StoredTensor((experts, inputs, outputs), torch.float32, "MXFP4", read, read_one)


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
        result[whole or name] = stored if whole is None else weights[whole]
        if whole is None and stored.dtype.is_floating_point and stored.dtype.itemsize == 1:
            # FP8 without a scale: torch computes with it in no smaller type than single precision.
            read = partial(_widened, stored)
            result[name] = replace(stored, dtype=torch.float32, read=read, read_one=read)
    return result


def _widened(stored: StoredTensor, index: int | None = None) -> Tensor:
    return (stored.read() if index is None else stored.read_slice(index)).to(torch.float32)
