"""Numbers with scales: 8-bit floats and integers, and integers that GPTQ, AWQ and compressed-tensors pack into words.

W = (q - zero) * scale. There is a scale for the tensor, a row, a group of columns or inputs, or a block.
"""

import re
from collections.abc import Iterator, Mapping
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor, Tensors

# What the reader of a format finds: name and tensor of each restored weight, and the names of the parts it is made of.
Restored = Iterator[tuple[str, StoredTensor, set[str]]]

_DEFAULT_BLOCK = (128, 128)  # DeepSeek's, where a config does not say
# A module's own names for the scale of its FP8 weight: DeepSeek V4's, ComfyUI's and Mistral's.
_OF_MODULE = {"scale", "scale_weight", "qscale_weight"}
# Parts beside a weight that say nothing about its numbers.
_OF_INPUTS = ("input_scale", "activation_scale", "scale_input", "qscale_act", "comfy_quant")
EXPONENT_BIAS = 127


def scaled_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """W = (q - zero) * scale, of ``weight_scale``, or ``weight_scale_inv``, which is no inverse.

    ``scale``, ``scale_weight`` and ``qscale_weight`` count beside an FP8 ``weight`` alone, since norms call their own
    factors so.
    """
    # The sizes of blocks that a config names, as transformers' FP8 or as compressed-tensors.
    schemes = [scheme.get("block_structure") for scheme in weight_schemes(settings)]
    named = [_sizes(value) for value in (settings.get("weight_block_size"), *schemes)]
    blocks = {sizes for sizes in named if sizes is not None} or {_DEFAULT_BLOCK}
    restored: set[str] = set()
    for key in tensors:
        module, dot, last = key.rpartition(".")
        name = re.sub("_scale(_inv)?$", "", key) if last not in _OF_MODULE else f"{module}{dot}weight"
        weight = tensors.get(name) if name != key else None
        if weight is None or weight.dtype.itemsize != 1 or len(weight.shape) != 2:
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
        used = {name, key, f"{name}_zero_point", *(f"{prefix}{part}" for part in _OF_INPUTS)}
        yield name, _scaled(name, key, tensors, blocks), used


def spread(values: Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """A value for every weight (m, n), from one number, (m), or one for each block of rows and columns."""
    if values.numel() == 1:
        return values.reshape(1, 1)
    if values.dim() == 1:
        return values.reshape(-1, 1)
    wide = values.repeat_interleave(block[0], dim=0)[: shape[0]]
    return wide.repeat_interleave(block[1], dim=1)[:, : shape[1]]


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


def _scaled(name: str, key: str, tensors: Tensors, blocks: set[tuple[int, int]]) -> StoredTensor:
    weight, scale, zero = tensors[name], tensors[key], tensors.get(f"{name}_zero_point")
    block = _block(name, "scale", scale.shape, weight.shape, blocks)
    zero_block = block if zero is None else _block(name, "zero point", zero.shape, weight.shape, blocks)

    def read() -> Tensor:
        values, factors = weight.read().to(torch.float32), scale.read()
        if zero is not None:
            values = values - spread(zero.read().to(torch.float32), weight.shape, zero_block)
        if factors.dtype == torch.uint8:
            factors = torch.ldexp(torch.ones(factors.shape), factors.to(torch.int32) - EXPONENT_BIAS)
        return values * spread(factors.to(torch.float32), weight.shape, block)

    return StoredTensor(weight.shape, torch.float32, f"{weight.stored_as} with scales", read)


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


def _sizes(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str):  # "128x128", as compressed-tensors once wrote it
        value = [int(size) if size.isdecimal() else 0 for size in value[:40].split("x")]
    if isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    return None


# Where in a word AWQ stores each of its outputs.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def gptq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """GPTQ's weights.

    ``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out),
    ``g_idx`` (in). Its length tells the bits, since ``dynamic`` may give a module its own. Version 1 stores zero points
    less one; ``checkpoint_format: gptq_v2`` stores them as they are.
    """
    shift = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales", "g_idx")).items():
        yield f"{module}.weight", _gptq(module, parts, shift), {f"{module}.{part}" for part in parts}


def awq_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """AWQ's: ``qweight`` (in, out / 8), ``qzeros`` (groups, out / 8), ``scales`` (groups, out); 4 bits."""
    for module, parts in _modules(tensors, "qweight", ("qzeros", "scales")).items():
        yield f"{module}.weight", _awq(module, parts), {f"{module}.{part}" for part in parts}


def compressed_weights(tensors: Tensors, settings: Mapping[str, Any]) -> Restored:
    """compressed-tensors': ``weight_packed`` (out, in * bits / 32), ``weight_scale``, ``weight_shape``."""
    for module, parts in _modules(tensors, "weight_packed", ("weight_scale", "weight_shape")).items():
        used = {f"{module}.{part}" for part in (*parts, "weight_zero_point", "weight_g_idx")}
        yield f"{module}.weight", _compressed(module, tensors, settings), used


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """Each row's first ``count`` integers of ``bits`` bits; number i starts at the row's bit i * bits."""
    wide = words.to(torch.int64) & 0xFFFFFFFF
    wide = torch.nn.functional.pad(wide, (0, 1))
    start = torch.arange(count, device=words.device) * bits
    both = wide[:, start // 32] | (wide[:, start // 32 + 1] << 32)
    codes: Tensor = (both >> (start % 32)) & (2**bits - 1)
    return codes


def _gptq(module: str, parts: Tensors, shift: int) -> StoredTensor:
    packed, zeros, scales, index = (parts[key] for key in ("qweight", "qzeros", "scales", "g_idx"))
    # The inputs fill the words to the last.
    require(module, len(index.shape) == 1 and index.shape[0] > 0, "g_idx")
    bits, over = divmod(packed.shape[0] * 32, index.shape[0])
    require(module, over == 0 and bits in {2, 3, 4, 8}, "qweight and g_idx")
    require(module, len(scales.shape) == 2 and packed.shape[1:] == scales.shape[1:], "qweight and scales")
    require(module, zeros.shape == (scales.shape[0], ceil(scales.shape[1] * bits / 32)), "qzeros")
    inputs, outputs = packed.shape[0] * 32 // bits, packed.shape[1]

    def read() -> Tensor:
        group = index.read().long()
        require(module, bool(((group >= 0) & (group < scales.shape[0])).all()), "g_idx")
        codes = unpacked(packed.read().mT, bits, inputs)  # (out, in)
        zero = unpacked(zeros.read(), bits, outputs) + shift  # (groups, out)
        return (codes - zero[group].mT).to(torch.float32) * scales.read().to(torch.float32)[group].mT

    return StoredTensor((outputs, inputs), torch.float32, f"int{bits} (GPTQ)", read)


def _awq(module: str, parts: Tensors) -> StoredTensor:
    packed, zeros, scales = (parts[key] for key in ("qweight", "qzeros", "scales"))
    require(module, len(scales.shape) == len(packed.shape) == 2, "qweight and scales")
    inputs, (groups, outputs) = packed.shape[0], scales.shape
    require(module, packed.shape[1] * 8 == outputs and groups > 0 and inputs % groups == 0, "qweight")
    require(module, zeros.shape == (groups, packed.shape[1]), "qzeros")
    places = torch.arange(outputs).reshape(-1, 8)[:, list(_AWQ_PLACES)].flatten()

    def read() -> Tensor:
        size = inputs // groups
        codes = unpacked(packed.read(), 4, outputs)[:, places]  # (in, out)
        zero = unpacked(zeros.read(), 4, outputs)[:, places].repeat_interleave(size, dim=0)
        scale = scales.read().to(torch.float32).repeat_interleave(size, dim=0)
        return ((codes - zero).to(torch.float32) * scale).mT.contiguous()

    return StoredTensor((outputs, inputs), torch.float32, "int4 (AWQ)", read)


def _compressed(module: str, tensors: Tensors, settings: Mapping[str, Any]) -> StoredTensor:
    packed, scale, sizes = (tensors[f"{module}.weight_{part}"] for part in ("packed", "scale", "shape"))
    zero, order = (tensors.get(f"{module}.weight_{part}") for part in ("zero_point", "g_idx"))
    require(module, packed.dtype == torch.int32 and sizes.shape == (2,), "weight_packed")
    rows, columns = shape = tuple(int(size) for size in sizes.read().tolist())
    require(module, packed.shape[0] == rows and columns > 0, "weight_shape")
    if prod(scale.shape) != 1:
        require(module, len(scale.shape) == 2 and scale.shape[0] in {1, rows}, "weight_scale")
        require(module, scale.shape[1] > 0 and columns % scale.shape[1] == 0, "weight_scale")
    # A row of few inputs cannot tell the bits of a number by its length alone.
    named = [own.get("num_bits") for own in weight_schemes(settings) if own.get("type", "int") == "int"]
    fitting = [bits for bits in range(1, 9) if ceil(columns * bits / 32) == packed.shape[1]]
    fitting = [bits for bits in fitting if not named or bits in named]
    require(module, bool(fitting), "weight_shape")
    if len(fitting) > 1:
        raise CheckpointError(
            f"'{module}.weight_packed' may have {' or '.join(map(str, fitting))} bits a number; pass the folder whose "
            "config.json has a quantization_config with num_bits"
        )
    bits = fitting[0]
    if zero is not None:
        # Zero points are packed as the numbers are, save the single zero point of a whole tensor.
        groups = scale.shape[1] if len(scale.shape) == 2 else 1
        is_packed = zero.dtype == torch.int32 and zero.shape == (ceil(rows * bits / 32), groups)
        is_single = zero.dtype != torch.int32 and prod(zero.shape) == prod(scale.shape) == 1
        require(module, is_packed or is_single, "weight_zero_point")
    require(module, order is None or order.shape == (columns,), "weight_g_idx")

    def per_input(values: Tensor) -> Tensor:
        """(out, groups) -> (out, in), by the inputs' own groups where they were reordered."""
        if values.numel() == 1 or values.shape[1] == 1:
            return values.reshape(-1, 1)
        if order is None:
            return spread(values, shape, (rows // values.shape[0], columns // values.shape[1]))
        return values[:, order.read().long().clamp(0, values.shape[1] - 1)]

    def read() -> Tensor:
        values: Tensor = (unpacked(packed.read(), bits, columns) - 2 ** (bits - 1)).to(torch.float32)
        if zero is not None:
            shift = zero.read()
            if shift.dtype == torch.int32:  # packed along the outputs: (out * bits / 32, groups)
                shift = unpacked(shift.mT, bits, rows).mT - 2 ** (bits - 1)
            values = values - per_input(shift.to(torch.float32))
        return values * per_input(scale.read().to(torch.float32))

    return StoredTensor((rows, columns), torch.float32, f"int{bits} (compressed-tensors)", read)


def _modules(tensors: Tensors, main: str, others: tuple[str, ...]) -> dict[str, dict[str, StoredTensor]]:
    result: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in tensors.items():
        module, _, last = name.rpartition(".")
        if last != main:
            continue
        missing = [part for part in others if f"{module}.{part}" not in tensors]
        require(name, not missing and len(stored.shape) == 2, f"it lacks {', '.join(missing) or 'a side'}")
        result[module] = {part: tensors[f"{module}.{part}"] for part in (main, *others)}
    return result


def require(weight: str, fits: bool, part: str) -> None:
    if not fits:
        raise CheckpointError(
            f"the quantized parts of '{weight}' do not fit together ({part}); download the checkpoint again"
        )


def weight_schemes(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """How compressed-tensors quantized the weights, once for each of its groups of modules."""
    groups = settings.get("config_groups")
    groups = groups.values() if isinstance(groups, Mapping) else []
    schemes = [group.get("weights") for group in groups if isinstance(group, Mapping)]
    return [scheme for scheme in schemes if isinstance(scheme, Mapping)]
