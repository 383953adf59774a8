"""Weights with scales that are beside them under another name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from intruders.checkpoints.quantized.restore import restored
from intruders.checkpoints.quantized.scaled import scaled_weights
from intruders.checkpoints.quantized.settings import Tensors
from intruders.checkpoints.stored.checkpoint import StoredTensor
from intruders.errors import CheckpointError

FP8 = torch.float8_e4m3fn


def stored(tensor: torch.Tensor) -> StoredTensor:
    return StoredTensor(tuple(tensor.shape), tensor.dtype, "test", lambda: tensor)


def read_scaled(tensors: Tensors, settings: dict[str, Any]) -> dict[str, StoredTensor]:
    return {name: weight for name, weight, _ in scaled_weights(tensors, settings)}


def test_four_bits_in_a_byte_are_refused() -> None:
    """Two codes a byte, a scale for 16 of them and one for the tensor: read as bytes they fit, and say nothing."""
    tensors = {
        "q.weight": stored(torch.zeros(8, 16, dtype=torch.uint8)),
        "q.weight_scale": stored(torch.ones(8, 2)),
        "q.weight_scale_2": stored(torch.ones(())),
    }
    with pytest.raises(CheckpointError, match="NVFP4"):
        read_scaled(tensors, {})
    del tensors["q.weight_scale_2"]
    weights = read_scaled(tensors | {"q.weight": stored(torch.full((8, 16), 3, dtype=torch.int8))}, {})
    assert weights["q.weight"].read().unique().tolist() == [3.0]


@pytest.mark.parametrize("prefix", ["", "model.layers.0.q_proj."])
@pytest.mark.parametrize(
    "name", ["weight_scale", "weight_scale_inv", "scale", "scale_weight", "qscale_weight"]
)
def test_every_name_of_a_scale(name: str, prefix: str) -> None:
    codes, scale = torch.randn(16, 32).to(FP8), torch.rand(()) / 448
    tensors = {
        f"{prefix}weight": stored(codes),
        f"{prefix}{name}": stored(scale),
        f"{prefix}scale_input": stored(torch.ones(())),
    }
    weights = restored(tensors, {}, "test")
    assert list(weights) == [f"{prefix}weight"]
    torch.testing.assert_close(weights[f"{prefix}weight"].read(), codes.float() * scale)


def test_a_factor_of_a_norm_is_its_own() -> None:
    """FLUX has norms whose only weight is called ``scale``, also in FP8 files."""
    tensors = {
        "img_attn.norm.key_norm.scale": stored(torch.ones(8).to(FP8)),
        "norm.weight": stored(torch.ones(8).to(FP8)),
        "norm.scale": stored(torch.full((8,), 3.0)),
    }
    weights = restored(tensors, {}, "test")
    assert {name: tensor.read().unique().item() for name, tensor in weights.items()} == {
        "img_attn.norm.key_norm.scale": 1.0,
        "norm.weight": 1.0,
        "norm.scale": 3.0,
    }


def test_two_scales_of_a_weight_are_refused() -> None:
    tensors = {
        name: stored(torch.ones(8, 8).to(FP8) if name == "q.weight" else torch.ones(()))
        for name in ("q.weight", "q.scale", "q.weight_scale")
    }
    with pytest.raises(CheckpointError, match=r"'q.weight' has another scale beside 'q.weight_scale'"):
        read_scaled(tensors, {})


def test_exponents_are_what_transformers_makes_of_them() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes, exponents = torch.randn(16, 64).to(FP8), torch.randint(100, 140, (16, 2), dtype=torch.uint8)
    truth = Fp8Dequantize(None)._dequantize_one(codes, exponents, torch.float32)
    settings = {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [1, 32]}
    for scale in (exponents, exponents.view(torch.float8_e8m0fnu)):
        tensors = {"q.weight": stored(codes), "q.weight_scale_inv": stored(scale)}
        weights = read_scaled(tensors, settings)
        assert torch.equal(weights["q.weight"].read(), truth)


def test_exponents_that_may_mean_something_else_are_refused() -> None:
    """Beside whole numbers they scale 4-bit codes; ComfyUI puts them in the order of the GPU's tiles."""
    codes, exponents = torch.ones(16, 64).to(FP8), torch.full((16, 2), 127, dtype=torch.uint8)
    tensors = {"q.weight": stored(codes), "q.weight_scale": stored(exponents)}
    with pytest.raises(CheckpointError, match=r"'q.weight_scale' contains exponents in an order"):
        read_scaled(tensors, {})
    settings = {"quant_method": "fp8"}
    marked = tensors | {"q.comfy_quant": stored(torch.zeros(9, dtype=torch.uint8))}
    for other in (
        marked,
        marked | {"q.weight": stored(codes.to(torch.int8)), "q.weight_scale": stored(torch.ones(()))},
    ):
        with pytest.raises(CheckpointError, match=r"'q.weight' is quantized by ComfyUI"):
            read_scaled(other, settings)
    for dtype in (torch.int8, torch.uint8):
        with pytest.raises(CheckpointError, match=r"packed in 4 bits .*MXFP4"):
            read_scaled(tensors | {"q.weight": stored(codes.to(dtype))}, settings)


@pytest.mark.parametrize("structure", [[128, 128], "128x128"])
def test_blocks_of_compressed_tensors(structure: object) -> None:
    """192 rows in blocks of 128 are 128 and 64, not 96 and 96."""
    codes, scale = torch.randn(192, 256).to(FP8), torch.rand(2, 2)
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": structure}}
    tensors = {"q.weight": stored(codes), "q.weight_scale": stored(scale)}
    weights = read_scaled(tensors, {"config_groups": {"group_0": group}})
    expected = codes.float()
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected[128 * row : 128 * row + 128, 128 * column : 128 * column + 128] *= scale[row, column]
    assert torch.equal(weights["q.weight"].read(), expected)


def test_a_block_that_cannot_be_told_is_refused() -> None:
    tensors = {"q.weight": stored(torch.ones(192, 256).to(FP8)), "q.weight_scale": stored(torch.rand(2, 2))}
    groups = {
        str(rows): {"weights": {"strategy": "block", "block_structure": [rows, 128]}} for rows in (96, 128)
    }
    with pytest.raises(CheckpointError, match="one a block of 96 x 128 or 128 x 128"):
        read_scaled(tensors, {"config_groups": groups})
    tensors["q.weight_scale"] = stored(torch.rand(4, 2))  # blocks of 48 or 64 rows
    with pytest.raises(CheckpointError, match=r"pass the folder whose config.json tells the block"):
        read_scaled(tensors, {})
