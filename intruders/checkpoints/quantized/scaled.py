"""FP8 and INT8 weights with scales: one for the tensor, one a row, one a group of columns, or one a block."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor
from .settings import Restored, Tensors, weight_schemes

_DEFAULT_BLOCK = (128, 128)  # DeepSeek's, where a config does not say
# A module's own names for the scale of its FP8 weight: DeepSeek V4's, ComfyUI's and Mistral's.
_OF_MODULE = {"scale", "scale_weight", "qscale_weight"}
# Parts beside a weight that say nothing about its numbers.
_OF_INPUTS = ("input_scale", "activation_scale", "scale_input", "qscale_act", "comfy_quant")
_EXPONENT_BIAS = 127


def scaled_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """W = (q - zero) * scale, from ``weight`` and ``weight_scale``, or another of its names.

    ``weight_scale_inv`` is no inverse. ``scale``, ``scale_weight`` and ``qscale_weight`` count beside an FP8 ``weight``
    alone, since norms call their own factors so.
    """
    blocks = _blocks(settings)
    restored: set[str] = set()
    for key, scale in tensors.items():
        name = _weight_of(key)
        weight = tensors.get(name) if name is not None else None
        if name is None or weight is None or weight.dtype.itemsize != 1 or len(weight.shape) != 2:
            continue
        prefix = name[: name.rfind(".") + 1]
        if key.removeprefix(prefix) in _OF_MODULE and not weight.dtype.is_floating_point:
            continue
        if name in restored:
            raise CheckpointError(
                f"'{name}' has another scale beside '{key}'; expected one scale, so download the checkpoint again"
            )
        restored.add(name)
        _require_bytes(name, key, tensors, settings)
        zero = tensors.get(f"{name}_zero_point")
        block = _block(name, "scale", scale.shape, weight.shape, blocks)
        zero_block = None if zero is None else _block(name, "zero point", zero.shape, weight.shape, blocks)
        used = {name, key, f"{name}_zero_point", *(f"{prefix}{part}" for part in _OF_INPUTS)}
        yield name, _scaled(weight, scale, block, zero, zero_block), used


def spread(values: Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """A value for every weight (m, n), from one number, (m), or one for each block of rows and columns."""
    if values.numel() == 1:
        return values.reshape(1, 1)
    if values.dim() == 1:
        return values.reshape(-1, 1)
    wide = values.repeat_interleave(block[0], dim=0)[: shape[0]]
    return wide.repeat_interleave(block[1], dim=1)[:, : shape[1]]


def _weight_of(key: str) -> str | None:
    """The weight whose scale has this name, if it is the name of a scale."""
    for suffix in ("_scale_inv", "_scale"):
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    module, dot, last = key.rpartition(".")
    return f"{module}{dot}weight" if last in _OF_MODULE else None


def _require_bytes(name: str, key: str, tensors: Tensors, settings: Mapping[str, Any]) -> None:
    """Refuse bytes that are no 8-bit numbers of the matrix, and scales that do not lie as the matrix does."""
    is_float = tensors[name].dtype.is_floating_point
    # Scales that are exponents of powers of two: E8M0, or the same as bytes.
    has_exponents = tensors[key].dtype in {torch.uint8, getattr(torch, "float8_e8m0fnu", None)}
    if f"{name}_scale_2" in tensors or (has_exponents and not is_float):
        raise CheckpointError(
            f"'{name}' is packed in 4 bits (NVFP4 or MXFP4), which is not restored here; pass the model before it "
            "was quantized"
        )
    # ComfyUI turns the columns of its INT8 and puts MXFP8's exponents in the order of the GPU's tiles.
    if f"{name.removesuffix('weight')}comfy_quant" in tensors and (has_exponents or not is_float):
        raise CheckpointError(
            f"'{name}' is quantized by ComfyUI other than in FP8 with a plain scale, which is not restored here; "
            "pass the model before it was quantized"
        )
    if has_exponents and not settings.get("quant_method"):
        raise CheckpointError(
            f"'{key}' contains exponents in an order that only a config tells; pass the folder whose config.json has "
            "a quantization_config"
        )


def _scaled(
    weight: StoredTensor,
    scale: StoredTensor,
    block: tuple[int, int],
    zero: StoredTensor | None,
    zero_block: tuple[int, int] | None,
) -> StoredTensor:
    def read() -> Tensor:
        values = weight.read().to(torch.float32)
        if zero is not None and zero_block is not None:
            values = values - spread(zero.read().to(torch.float32), weight.shape, zero_block)
        return values * spread(_factors(scale.read()), weight.shape, block)

    return StoredTensor(weight.shape, torch.float32, f"{weight.stored_as} with scales", read)


def _factors(scale: Tensor) -> Tensor:
    if scale.dtype == torch.uint8:
        return torch.ldexp(torch.ones(scale.shape), scale.to(torch.int32) - _EXPONENT_BIAS)
    return scale.to(torch.float32)


def _block(
    name: str, part: str, given: tuple[int, ...], shape: tuple[int, ...], blocks: set[tuple[int, int]]
) -> tuple[int, int]:
    """The rows and columns that share a number, where ``given`` is the shape of these numbers."""
    rows, columns = shape
    if prod(given) == 1:
        return rows, columns
    if given == (rows,):
        return 1, columns
    fitting = [block for block in blocks if given == (ceil(rows / block[0]), ceil(columns / block[1]))]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and len(given) == 2 and given[0] == rows and given[1] and columns % given[1] == 0:
        return 1, columns // given[1]
    listed = " or ".join(f"{block[0]} x {block[1]}" for block in sorted(blocks))
    raise CheckpointError(
        f"'{name}' of shape {shape} has a {part} of shape {given}; expected one number, one a row, one a group that "
        f"divides it, or one a block of {listed}, so pass the folder whose config.json tells the block"
    )


def _blocks(settings: Mapping[str, Any]) -> set[tuple[int, int]]:
    """The sizes of blocks that a config names, as transformers' FP8 or as compressed-tensors."""
    named = [
        settings.get("weight_block_size"),
        *(each.get("block_structure") for each in weight_schemes(settings)),
    ]
    blocks = {block for value in named if (block := _sizes(value)) is not None}
    return blocks or {_DEFAULT_BLOCK}


def _sizes(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str):  # "128x128", as compressed-tensors once wrote it
        value = [int(size) if size.isdecimal() else 0 for size in value[:40].split("x")]
    if isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    return None
