"""Parts of quantized weights: integers in words, scales under other names, bytes that nobody scaled, settings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import intruders
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.quantized.restore import (
    drop_quantization,
    quantization_of,
    refuse_codes,
    restored,
)
from intruders.checkpoints.quantized.scaled import Tensors, scaled_weights, unpacked, weight_schemes
from intruders.checkpoints.stored.checkpoint import StoredTensor
from tests.checkpoints.models import refused


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_come_out_as_they_went_in(bits: int) -> None:
    """Also across the ends of words, which 3, 5, 6 and 7 bits do not divide, and with the sign of a word set."""
    drawn = random.Random(bits)
    rows = [[drawn.randrange(2**bits) for _ in range(41)] for _ in range(3)]
    rows.append([2**bits - 1] * 41)
    words = []
    for row in rows:
        whole = sum(number << (bits * position) for position, number in enumerate(row))
        content = whole.to_bytes(4 * -(-41 * bits // 32), "little")
        words.append(
            [int.from_bytes(content[at : at + 4], "little", signed=True) for at in range(0, len(content), 4)]
        )
    stored = torch.tensor(words, dtype=torch.int32)
    assert unpacked(stored, bits, 41).tolist() == rows
    assert unpacked(stored, bits, 7).tolist() == [row[:7] for row in rows]


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
    with refused("NVFP4"):
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
    with refused(r"'q.weight' has another scale beside 'q.weight_scale'"):
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
    with refused(r"'q.weight_scale' contains exponents in an order"):
        read_scaled(tensors, {})
    settings = {"quant_method": "fp8"}
    marked = tensors | {"q.comfy_quant": stored(torch.zeros(9, dtype=torch.uint8))}
    for other in (
        marked,
        marked | {"q.weight": stored(codes.to(torch.int8)), "q.weight_scale": stored(torch.ones(()))},
    ):
        with refused(r"'q.weight' is quantized by ComfyUI"):
            read_scaled(other, settings)
    for dtype in (torch.int8, torch.uint8):
        with refused(r"packed in 4 bits .*MXFP4"):
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
    with refused("one a block of 96 x 128 or 128 x 128"):
        read_scaled(tensors, {"config_groups": groups})
    tensors["q.weight_scale"] = stored(torch.rand(4, 2))  # blocks of 48 or 64 rows
    with refused(r"pass the folder whose config.json tells the block"):
        read_scaled(tensors, {})


FP8 = torch.float8_e4m3fn


def unread(**shapes: tuple[torch.dtype, tuple[int, ...]]) -> dict[str, StoredTensor]:
    return {
        name.replace("__", "."): StoredTensor(shape, dtype, "F8_E4M3", lambda: torch.zeros(0))
        for name, (dtype, shape) in shapes.items()
    }


@pytest.mark.parametrize(
    "scale", ["experts.w1_scale", "experts.w1_scale_inv", "experts.up_scale", "experts.w1.scale"]
)
def test_stacks_in_fp8(scale: str) -> None:
    tensors = unread(experts__w1=(FP8, (2, 16, 32))) | unread(
        **{scale.replace(".", "__"): (torch.float32, (2, 1, 1))}
    )
    with refused(rf"'experts.w1' is F8_E4M3 of shape \(2, 16, 32\) with the scale '{scale}'.*; pass"):
        refuse_codes(tensors, set())
    refuse_codes(tensors, {"experts.w1", scale})


def test_matrices_under_names_that_are_not_known() -> None:
    for dtype in (FP8, torch.int8, torch.uint8):
        with refused(r"'q.weight' .* with the scale 'q.scale_of_rows'"):
            refuse_codes(unread(q__weight=(dtype, (8, 8)), q__scale_of_rows=(torch.float32, (8,))), set())


def test_what_is_no_scale_of_the_bytes() -> None:
    """CLIP's ``logit_scale``, the tables of LTX, masks of GPT-2, norms of FLUX, all of them cast to FP8."""
    tensors = unread(
        text_projection=(FP8, (8, 8)),
        logit_scale=(torch.float32, ()),
        block__scale_shift_table=(FP8, (6, 8)),
        block__audio_scale_shift_table=(FP8, (6, 8)),
        attn__mask=(torch.uint8, (8, 8)),
        attn__scale=(torch.float32, ()),
        q__weight=(FP8, (8, 8)),
        q__key_norm__scale=(FP8, (8,)),
    )
    refuse_codes(tensors, set())


def test_an_audit_of_a_stack_in_fp8_says_so() -> None:
    base = {"mlp.experts.gate_up_proj": torch.randn(2, 16, 16), "q.weight": torch.randn(16, 16)}
    tuned = base | {
        "mlp.experts.gate_up_proj": base["mlp.experts.gate_up_proj"].to(FP8),
        "mlp.experts.gate_up_proj_scale_inv": torch.ones(2, 1, 1),
    }
    with refused(r"'mlp.experts.gate_up_proj_scale_inv', which is not restored"):
        intruders.audit(base, tuned)


def in_folder(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, object]) -> Path:
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"group_size": 16, "bits": 4}}])
def test_words_of_mlx_whose_config_names_no_method(tmp_path: Path, config: dict[str, object]) -> None:
    words = {
        "q.weight": torch.zeros(8, 4, dtype=torch.uint32),
        "q.scales": torch.ones(8, 2),
        "q.biases": torch.ones(8, 2),
    }
    with refused(r"quantized with MLX .*; pass the original base, or .*--dequantize"):
        open_checkpoint(in_folder(tmp_path, words, config))


def test_words_of_autogptq_are_read_once_the_config_names_the_method(tmp_path: Path) -> None:
    words = {
        "q.qweight": torch.full((8, 32), 0x33333333, dtype=torch.int32),
        "q.qzeros": torch.zeros(2, 4, dtype=torch.int32),
        "q.scales": torch.ones(2, 32),
        "q.g_idx": torch.arange(64, dtype=torch.int32) // 32,
    }
    with refused(r"does not name the method; .*quant_method.*; add it, or pass"):
        open_checkpoint(in_folder(tmp_path, words, {}))
    own = {"bits": 4, "group_size": 32}  # of quantize_config.json
    named = in_folder(tmp_path, words, {"quantization_config": own | {"quant_method": "gptq"}})
    assert torch.equal(open_checkpoint(named).read("q.weight"), torch.full((32, 64), 2.0))


def test_whole_numbers_that_have_no_scales_are_no_words(tmp_path: Path) -> None:
    tensors = {"q.weight": torch.ones(8, 8), "ids.weight": torch.zeros(8, 4, dtype=torch.int64)}
    assert set(open_checkpoint(in_folder(tmp_path, tensors, {})).names()) == tensors.keys()


GPTQ = {"quant_method": "gptq"}


def test_the_config_and_then_the_language_model_in_it() -> None:
    from transformers import LlavaConfig

    own = LlavaConfig().to_dict()
    assert quantization_of(own) is None
    own["text_config"]["quantization_config"] = GPTQ
    config = LlavaConfig.from_dict(own)
    assert config.get_text_config(decoder=True).quantization_config == GPTQ  # what transformers takes
    assert quantization_of(config.to_dict()) == GPTQ
    assert quantization_of(own | {"quantization_config": {"quant_method": "awq"}}) == {"quant_method": "awq"}
    drop_quantization(own)
    assert quantization_of(own) is None


@pytest.mark.parametrize(
    "config", [None, {}, {"text_config": 3}, {"quantization_config": None, "decoder": []}]
)
def test_configs_that_say_nothing(config: Any) -> None:
    assert quantization_of(config) is None


def test_schemes_of_damaged_groups_are_passed_over() -> None:
    groups = {"a": {"weights": {"num_bits": 4}}, "b": ["Linear"], "c": {"weights": None}}
    assert weight_schemes({"config_groups": groups}) == [{"num_bits": 4}]
    assert weight_schemes({"config_groups": 3}) == weight_schemes({}) == []
