"""GPTQ, AWQ and compressed-tensors: integers packed into words, scales and zero points for groups of inputs.

W = (q - zero) * scale, where an input's group chooses the scale and zero of every output.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor
from .scaled import spread

Tensors = Mapping[str, StoredTensor]
Restored = tuple[dict[str, StoredTensor], set[str]]

# Within a word AWQ stores the outputs in this order.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def gptq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """GPTQ's weights.

    ``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out),
    ``g_idx`` (in). Version 1 stores zero points less one; ``checkpoint_format: gptq_v2`` stores them as they
    are.
    """
    shift = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    weights: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales", "g_idx")).items():
        packed, zeros, scales, index = (parts[key] for key in ("qweight", "qzeros", "scales", "g_idx"))
        bits = _bits(settings, module)
        inputs = packed.shape[0] * 32 // bits
        _require(
            module, len(scales.shape) == 2 and packed.shape[1:] == scales.shape[1:], "qweight and scales"
        )
        _require(module, zeros.shape == (scales.shape[0], ceil(scales.shape[1] * bits / 32)), "qzeros")
        _require(module, index.shape == (inputs,), "g_idx")
        weights[f"{module}.weight"] = _gptq(module, packed, zeros, scales, index, bits, shift)
        used |= {f"{module}.{part}" for part in parts}
    return weights, used


def awq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """AWQ's: ``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out); 4 bits."""
    weights: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales")).items():
        packed, zeros, scales = (parts[key] for key in ("qweight", "qzeros", "scales"))
        _require(module, len(scales.shape) == len(packed.shape) == 2, "qweight and scales")
        groups, outputs = scales.shape
        _require(
            module, packed.shape[1] * 8 == outputs and groups > 0 and packed.shape[0] % groups == 0, "qweight"
        )
        _require(module, zeros.shape == (groups, packed.shape[1]), "qzeros")
        weights[f"{module}.weight"] = _awq(packed, zeros, scales)
        used |= {f"{module}.{part}" for part in parts}
    return weights, used


def compressed_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """compressed-tensors': ``weight_packed`` (out, in * bits / 32), ``weight_scale``, ``weight_shape``."""
    weights: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for module, parts in _modules(tensors, "weight_packed", ("weight_scale", "weight_shape")).items():
        packed, scale = parts["weight_packed"], parts["weight_scale"]
        _require(module, packed.dtype == torch.int32 and parts["weight_shape"].shape == (2,), "weight_packed")
        shape = tuple(int(size) for size in parts["weight_shape"].read().tolist())
        _require(
            module, len(packed.shape) == 2 and packed.shape[0] == shape[0] and shape[1] > 0, "weight_shape"
        )
        bits = packed.shape[1] * 32 // shape[1]
        _require(module, 1 <= bits <= 8 and ceil(shape[1] * bits / 32) == packed.shape[1], "weight_shape")
        _require(module, len(scale.shape) == 2 and scale.shape[0] in {1, shape[0]}, "weight_scale")
        _require(module, scale.shape[1] > 0 and shape[1] % scale.shape[1] == 0, "weight_scale")
        zero, order = (tensors.get(f"{module}.weight_{part}") for part in ("zero_point", "g_idx"))
        _require(
            module,
            zero is None or zero.shape == (ceil(shape[0] * bits / 32), scale.shape[1]),
            "weight_zero_point",
        )
        _require(module, order is None or order.shape == (shape[1],), "weight_g_idx")
        weights[f"{module}.weight"] = _compressed(shape, bits, packed, scale, zero, order)
        used |= {f"{module}.{part}" for part in (*parts, "weight_zero_point", "weight_g_idx")}
    return weights, used


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """Each row's first ``count`` integers of ``bits`` bits; number i starts at the row's bit i * bits."""
    wide = words.to(torch.int64) & 0xFFFFFFFF
    wide = torch.nn.functional.pad(wide, (0, 1))
    start = torch.arange(count, device=words.device) * bits
    both = wide[:, start // 32] | (wide[:, start // 32 + 1] << 32)
    codes: Tensor = (both >> (start % 32)) & (2**bits - 1)
    return codes


def _gptq(
    module: str,
    packed: StoredTensor,
    zeros: StoredTensor,
    scales: StoredTensor,
    index: StoredTensor,
    bits: int,
    shift: int,
) -> StoredTensor:
    inputs, outputs = packed.shape[0] * 32 // bits, packed.shape[1]

    def read() -> Tensor:
        group = index.read().long()
        _require(module, bool(((group >= 0) & (group < scales.shape[0])).all()), "g_idx")
        codes = unpacked(packed.read().mT, bits, inputs)  # (out, in)
        zero = unpacked(zeros.read(), bits, outputs) + shift  # (groups, out)
        return (codes - zero[group].mT).to(torch.float32) * scales.read().to(torch.float32)[group].mT

    return StoredTensor((outputs, inputs), torch.float32, f"int{bits} (GPTQ)", read)


def _awq(packed: StoredTensor, zeros: StoredTensor, scales: StoredTensor) -> StoredTensor:
    inputs, (groups, outputs) = packed.shape[0], scales.shape
    order = torch.arange(outputs).reshape(-1, 8)[:, list(_AWQ_ORDER)].flatten()

    def codes(words: Tensor) -> Tensor:
        plain = torch.empty(words.shape[0], outputs, dtype=torch.int64)
        plain[:, order] = unpacked(words, 4, outputs)
        return plain

    def read() -> Tensor:
        size = inputs // groups
        zero = codes(zeros.read()).repeat_interleave(size, dim=0)  # (in, out)
        scale = scales.read().to(torch.float32).repeat_interleave(size, dim=0)
        return ((codes(packed.read()) - zero).to(torch.float32) * scale).mT.contiguous()

    return StoredTensor((outputs, inputs), torch.float32, "int4 (AWQ)", read)


def _compressed(
    shape: tuple[int, ...],
    bits: int,
    packed: StoredTensor,
    scale: StoredTensor,
    zero: StoredTensor | None,
    order: StoredTensor | None,
) -> StoredTensor:
    def read() -> Tensor:
        values: Tensor = (unpacked(packed.read(), bits, shape[1]) - 2 ** (bits - 1)).to(torch.float32)
        factor = scale.read().to(torch.float32)
        if zero is not None:
            # Packed along the outputs: (out * bits / 32, groups).
            shift = unpacked(zero.read().mT, bits, shape[0]).mT - 2 ** (bits - 1)
            values = values - _per_input(shift.to(torch.float32), shape, order)
        return values * _per_input(factor, shape, order)

    return StoredTensor((shape[0], shape[1]), torch.float32, f"int{bits} (compressed-tensors)", read)


def _per_input(values: Tensor, shape: tuple[int, ...], order: StoredTensor | None) -> Tensor:
    """(out, groups) -> (out, in), by the inputs' own groups where they were reordered."""
    if order is None or values.shape[1] == 1:
        return spread(values, shape, None)
    return values[:, order.read().long().clamp(0, values.shape[1] - 1)]


def _modules(tensors: Tensors, main: str, others: tuple[str, ...]) -> dict[str, dict[str, StoredTensor]]:
    """The modules that have a tensor called ``main``, each with all the parts it needs."""
    result: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in tensors.items():
        module, _, last = name.rpartition(".")
        if last != main:
            continue
        parts = {part: tensors.get(f"{module}.{part}") for part in others}
        missing = [part for part, tensor in parts.items() if tensor is None]
        if missing or len(stored.shape) != 2:
            raise CheckpointError(
                f"'{name}' lacks its {', '.join(missing) or 'two dimensions'}; download it again"
            )
        result[module] = {main: stored} | {
            part: tensor for part, tensor in parts.items() if tensor is not None
        }
    return result


def _bits(settings: Mapping[str, Any], module: str) -> int:
    bits = settings.get("bits", 4)
    if type(bits) is not int or bits not in {2, 3, 4, 8}:
        raise CheckpointError(
            f"the quantization of '{module}' has bits = {str(bits)[:40]!r}; expected 2, 3, 4 or 8"
        )
    return bits


def _require(module: str, fits: bool, part: str) -> None:
    if not fits:
        raise CheckpointError(
            f"the quantized parts of '{module}' do not fit together ({part}); download the checkpoint again"
        )
