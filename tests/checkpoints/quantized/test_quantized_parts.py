"""Parts of quantized weights: integers in words, scales under other names, bytes that nobody scaled, settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.quantized.restore import restored
from intruders.checkpoints.quantized.scaled import weight_schemes
from intruders.checkpoints.stored.checkpoint import StoredTensor
from tests.checkpoints.models import refused, with_config

FP8 = torch.float8_e4m3fn
CODES, EXPONENTS = torch.ones(16, 64).to(FP8), torch.full((16, 2), 127, dtype=torch.uint8)
WORDS = torch.zeros(8, 4, dtype=torch.int32)
SCALE, STACK = torch.ones(()), torch.ones(2, 16, 32).to(FP8)
OF_COMFY = {"q.weight": CODES, "q.comfy_quant": torch.zeros(9, dtype=torch.uint8)}
OF_BLOCKS = {str(rows): {"weights": {"block_structure": [rows, 128]}} for rows in (96, 128)}
WHOLE_NUMBERS = {f"as {dtype}": CODES.to(dtype) for dtype in (torch.int8, torch.uint8)}

# Tensors and settings of their quantization, and what is said of them. Read as bytes most would fit, and say nothing.
REFUSED: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
    "two codes a byte": (
        {"q.weight": CODES.byte(), "q.weight_scale": torch.ones(16, 2), "q.weight_scale_2": SCALE},
        {},
        "NVFP4",
    ),
    "words of MLX, whose config names no method": (
        {"q.weight": WORDS.to(torch.uint32), "q.scales": torch.ones(8, 2), "q.biases": torch.ones(8, 2)},
        {"group_size": 16, "bits": 4},
        r"quantized with MLX .*; pass the original base, or .*--dequantize",
    ),
    "words of AutoGPTQ, whose config has the method elsewhere": (
        {"q.qweight": WORDS, "q.scales": torch.ones(2, 4)},
        {},
        r"does not name the method; .*quant_method.*; add it, or pass",
    ),
    "two scales": (
        {"q.weight": CODES, "q.scale": SCALE, "q.weight_scale": SCALE},
        {},
        "'q.weight' has another scale beside 'q.weight_scale'",
    ),
    "exponents in an order that is not told": (
        {"q.weight": CODES, "q.weight_scale": EXPONENTS},
        {},
        r"'q.weight_scale' contains exponents in an order",
    ),
    "exponents of ComfyUI, in the order of the GPU's tiles": (
        OF_COMFY | {"q.weight_scale": EXPONENTS},
        {"quant_method": "fp8"},
        "'q.weight' is quantized by ComfyUI",
    ),
    "columns that ComfyUI turned": (
        OF_COMFY | {"q.weight": CODES.to(torch.int8), "q.weight_scale": SCALE},
        {"quant_method": "fp8"},
        "'q.weight' is quantized by ComfyUI",
    ),
    **{
        f"exponents beside whole numbers {name}": (
            {"q.weight": codes, "q.weight_scale": EXPONENTS},
            {"quant_method": "fp8"},
            "packed in 4 bits .*MXFP4",
        )
        for name, codes in WHOLE_NUMBERS.items()
    },
    "one of two blocks": (
        {"q.weight": torch.ones(192, 256).to(FP8), "q.weight_scale": torch.rand(2, 2)},
        {"config_groups": OF_BLOCKS},
        "one a block of 96 x 128 or 128 x 128",
    ),
    "scales of another number of rows": (
        {
            "q.weight_packed": torch.ones(4, 4, dtype=torch.int32),
            "q.weight_scale": torch.ones(3, 2),
            "q.weight_shape": torch.tensor([4, 32]),
        },
        {"quant_method": "compressed-tensors"},
        r"the quantized parts of 'q' do not fit together \(weight_scale\)",
    ),
    **{
        f"a stack with {scale}": (
            {"experts.w1": STACK, scale: torch.ones(2, 1, 1)},
            {},
            rf"'experts.w1' is float8_e4m3fn of shape \(2, 16, 32\) with the scale '{scale}'.*; pass",
        )
        for scale in ("experts.w1_scale", "experts.w1_scale_inv", "experts.up_scale", "experts.w1.scale")
    },
    **{
        f"a scale of another name, {name}": (
            {"q.weight": codes, "q.scale_of_rows": torch.ones(16)},
            {},
            r"'q.weight' .* with the scale 'q.scale_of_rows'",
        )
        for name, codes in (WHOLE_NUMBERS | {"as FP8": CODES}).items()
    },
}


def stored(tensor: torch.Tensor) -> StoredTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(tuple(tensor.shape), tensor.dtype, dtype, lambda: tensor)


def restored_of(tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> dict[str, StoredTensor]:
    parts = {name: stored(tensor) for name, tensor in tensors.items()}
    return restored(parts, {"quantization_config": settings}, "test")


@pytest.mark.parametrize(("tensors", "settings", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_parts_that_are_refused(
    tensors: dict[str, torch.Tensor], settings: dict[str, Any], said: str
) -> None:
    with refused(said):
        restored_of(tensors, settings)


def test_what_is_no_scale_of_the_bytes() -> None:
    """CLIP's ``logit_scale``, the tables of LTX, masks of GPT-2, norms of FLUX, all of them cast to FP8."""
    shapes = {"text_projection": (8, 8), "block.scale_shift_table": (6, 8), "q.weight": (8, 8)}
    shapes |= {"block.audio_scale_shift_table": (6, 8), "q.key_norm.scale": (8,)}
    tensors = {name: torch.ones(shape).to(FP8) for name, shape in shapes.items()}
    others = {"logit_scale": SCALE, "attn.scale": SCALE, "attn.mask": torch.ones(8, 8, dtype=torch.uint8)}
    assert restored_of(tensors | others, {}).keys() == tensors.keys() | others.keys()


@pytest.mark.parametrize("prefix", ["", "model.layers.0.q_proj."])
@pytest.mark.parametrize(
    "name", ["weight_scale", "weight_scale_inv", "scale", "scale_weight", "qscale_weight"]
)
def test_every_name_of_a_scale(name: str, prefix: str) -> None:
    codes, scale = torch.randn(16, 32).to(FP8), torch.rand(()) / 448
    parts = {"weight": codes, name: scale, "scale_input": SCALE}
    weights = restored_of({f"{prefix}{part}": tensor for part, tensor in parts.items()}, {})
    assert list(weights) == [f"{prefix}weight"]
    torch.testing.assert_close(weights[f"{prefix}weight"].read(), codes.float() * scale)


def test_a_factor_of_a_norm_is_its_own() -> None:
    """FLUX has norms whose only weight is called ``scale``, also in FP8 files."""
    numbers = {"img_attn.norm.key_norm.scale": 1.0, "norm.weight": 1.0, "norm.scale": 3.0}
    tensors = {name: torch.full((8,), number) for name, number in numbers.items()}
    in_fp8 = {name: tensor.to(FP8) for name, tensor in tensors.items() if name != "norm.scale"}
    weights = restored_of(tensors | in_fp8, {})
    assert {name: tensor.read().unique().item() for name, tensor in weights.items()} == numbers


@pytest.mark.parametrize("config", [{}, {"text_config": 3}, {"quantization_config": None, "decoder": []}])
def test_whole_numbers_without_scales_and_configs_without_a_quantization(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    tensors = {"q.weight": torch.ones(8, 8), "ids.weight": torch.zeros(8, 4, dtype=torch.int64)}
    assert set(open_checkpoint(with_config(tmp_path, tensors, config)).names()) == tensors.keys()


def test_schemes_of_damaged_groups_are_passed_over() -> None:
    groups = {"a": {"weights": {"num_bits": 4}}, "b": ["Linear"], "c": {"weights": None}}
    assert weight_schemes({"config_groups": groups}) == [{"num_bits": 4}]
    assert weight_schemes({"config_groups": 3}) == weight_schemes({}) == []
