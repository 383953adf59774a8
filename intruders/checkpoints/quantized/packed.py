"""GPTQ, AWQ and compressed-tensors: integers packed into words, scales and zero points for groups of inputs.

W = (q - zero) * scale, where an input's group chooses the scale and zero of every output.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor
from .scaled import spread
from .settings import Restored, Tensors, weight_schemes

# Within a word AWQ stores the outputs in this order.
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def gptq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """GPTQ's weights.

    ``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out),
    ``g_idx`` (in). Its length tells the bits, since ``dynamic`` may give a module its own. Version 1 stores zero points
    less one; ``checkpoint_format: gptq_v2`` stores them as they are.
    """
    shift = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales", "g_idx")).items():
        packed, zeros, scales, index = (parts[key] for key in ("qweight", "qzeros", "scales", "g_idx"))
        # The inputs fill the words to the last.
        _require(module, len(index.shape) == 1 and index.shape[0] > 0, "g_idx")
        bits, over = divmod(packed.shape[0] * 32, index.shape[0])
        _require(module, over == 0 and bits in {2, 3, 4, 8}, "qweight and g_idx")
        _require(
            module, len(scales.shape) == 2 and packed.shape[1:] == scales.shape[1:], "qweight and scales"
        )
        _require(module, zeros.shape == (scales.shape[0], ceil(scales.shape[1] * bits / 32)), "qzeros")
        weight = _gptq(module, packed, zeros, scales, index, bits, shift)
        yield f"{module}.weight", weight, {f"{module}.{part}" for part in parts}


def awq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """AWQ's: ``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out); 4 bits."""
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales")).items():
        packed, zeros, scales = (parts[key] for key in ("qweight", "qzeros", "scales"))
        _require(module, len(scales.shape) == len(packed.shape) == 2, "qweight and scales")
        groups, outputs = scales.shape
        _require(
            module, packed.shape[1] * 8 == outputs and groups > 0 and packed.shape[0] % groups == 0, "qweight"
        )
        _require(module, zeros.shape == (groups, packed.shape[1]), "qzeros")
        yield f"{module}.weight", _awq(packed, zeros, scales), {f"{module}.{part}" for part in parts}


def compressed_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """compressed-tensors': ``weight_packed`` (out, in * bits / 32), ``weight_scale``, ``weight_shape``."""
    for module, parts in _modules(tensors, "weight_packed", ("weight_scale", "weight_shape")).items():
        packed, scale = parts["weight_packed"], parts["weight_scale"]
        _require(module, packed.dtype == torch.int32 and parts["weight_shape"].shape == (2,), "weight_packed")
        shape = tuple(int(size) for size in parts["weight_shape"].read().tolist())
        _require(
            module, len(packed.shape) == 2 and packed.shape[0] == shape[0] and shape[1] > 0, "weight_shape"
        )
        if prod(scale.shape) != 1:
            _require(module, len(scale.shape) == 2 and scale.shape[0] in {1, shape[0]}, "weight_scale")
            _require(module, scale.shape[1] > 0 and shape[1] % scale.shape[1] == 0, "weight_scale")
        bits = _compressed_bits(settings, module, packed.shape[1], shape[1])
        zero, order = (tensors.get(f"{module}.weight_{part}") for part in ("zero_point", "g_idx"))
        if zero is not None:
            # Zero points are packed as the numbers are, save the single zero point of a whole tensor.
            groups = scale.shape[1] if len(scale.shape) == 2 else 1
            is_packed = zero.dtype == torch.int32 and zero.shape == (ceil(shape[0] * bits / 32), groups)
            is_single = zero.dtype != torch.int32 and prod(zero.shape) == prod(scale.shape) == 1
            _require(module, is_packed or is_single, "weight_zero_point")
        _require(module, order is None or order.shape == (shape[1],), "weight_g_idx")
        used = {f"{module}.{part}" for part in (*parts, "weight_zero_point", "weight_g_idx")}
        yield f"{module}.weight", _compressed(shape, bits, packed, scale, zero, order), used


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
            shift = zero.read()
            if shift.dtype == torch.int32:  # packed along the outputs: (out * bits / 32, groups)
                shift = unpacked(shift.mT, bits, shape[0]).mT - 2 ** (bits - 1)
            values = values - _per_input(shift.to(torch.float32), shape, order)
        return values * _per_input(factor, shape, order)

    return StoredTensor((shape[0], shape[1]), torch.float32, f"int{bits} (compressed-tensors)", read)


def _per_input(values: Tensor, shape: tuple[int, ...], order: StoredTensor | None) -> Tensor:
    """(out, groups) -> (out, in), by the inputs' own groups where they were reordered."""
    if values.numel() == 1 or values.shape[1] == 1:
        return values.reshape(-1, 1)
    if order is None:
        return spread(values, shape, (shape[0] // values.shape[0], shape[1] // values.shape[1]))
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


def _compressed_bits(settings: Mapping[str, Any], module: str, words: int, inputs: int) -> int:
    """The bits of a number of compressed-tensors', which a row of few inputs cannot tell by its length alone."""
    named = [
        scheme.get("num_bits") for scheme in weight_schemes(settings) if scheme.get("type", "int") == "int"
    ]
    fitting = [
        bits for bits in range(1, 9) if ceil(inputs * bits / 32) == words and (not named or bits in named)
    ]
    _require(module, bool(fitting), "weight_shape")
    if len(fitting) > 1:
        raise CheckpointError(
            f"'{module}.weight_packed' may have {' or '.join(map(str, fitting))} bits a number; pass the folder whose "
            "config.json has a quantization_config with num_bits"
        )
    return fitting[0]


def _require(module: str, fits: bool, part: str) -> None:
    if not fits:
        raise CheckpointError(
            f"the quantized parts of '{module}' do not fit together ({part}); download the checkpoint again"
        )
