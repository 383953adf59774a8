"""Bytes beside a scale that nobody applied are refused; bytes beside other tensors are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import intruders
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.quantized.restore import refuse_codes
from intruders.checkpoints.stored.checkpoint import StoredTensor
from intruders.errors import CheckpointError

FP8 = torch.float8_e4m3fn


def stored(**shapes: tuple[torch.dtype, tuple[int, ...]]) -> dict[str, StoredTensor]:
    return {
        name.replace("__", "."): StoredTensor(shape, dtype, "F8_E4M3", lambda: torch.zeros(0))
        for name, (dtype, shape) in shapes.items()
    }


@pytest.mark.parametrize(
    "scale", ["experts.w1_scale", "experts.w1_scale_inv", "experts.up_scale", "experts.w1.scale"]
)
def test_stacks_in_fp8(scale: str) -> None:
    tensors = stored(experts__w1=(FP8, (2, 16, 32))) | stored(
        **{scale.replace(".", "__"): (torch.float32, (2, 1, 1))}
    )
    with pytest.raises(
        CheckpointError,
        match=rf"'experts.w1' is F8_E4M3 of shape \(2, 16, 32\) with the scale '{scale}'.*; pass",
    ):
        refuse_codes(tensors, set())
    refuse_codes(tensors, {"experts.w1", scale})


def test_matrices_under_names_that_are_not_known() -> None:
    for dtype in (FP8, torch.int8, torch.uint8):
        with pytest.raises(CheckpointError, match=r"'q.weight' .* with the scale 'q.scale_of_rows'"):
            refuse_codes(stored(q__weight=(dtype, (8, 8)), q__scale_of_rows=(torch.float32, (8,))), set())


def test_what_is_no_scale_of_the_bytes() -> None:
    """CLIP's ``logit_scale``, the tables of LTX, masks of GPT-2, norms of FLUX, all of them cast to FP8."""
    tensors = stored(
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
    with pytest.raises(CheckpointError, match=r"'mlp.experts.gate_up_proj_scale_inv', which is not restored"):
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
    with pytest.raises(
        CheckpointError, match=r"quantized with MLX .*; pass the original base, or .*--dequantize"
    ):
        open_checkpoint(in_folder(tmp_path, words, config))


def test_words_of_autogptq_are_read_once_the_config_names_the_method(tmp_path: Path) -> None:
    words = {
        "q.qweight": torch.full((8, 32), 0x33333333, dtype=torch.int32),
        "q.qzeros": torch.zeros(2, 4, dtype=torch.int32),
        "q.scales": torch.ones(2, 32),
        "q.g_idx": torch.arange(64, dtype=torch.int32) // 32,
    }
    with pytest.raises(CheckpointError, match=r"does not name the method; .*quant_method.*; add it, or pass"):
        open_checkpoint(in_folder(tmp_path, words, {}))
    own = {"bits": 4, "group_size": 32}  # of quantize_config.json
    named = in_folder(tmp_path, words, {"quantization_config": own | {"quant_method": "gptq"}})
    assert torch.equal(open_checkpoint(named).read("q.weight"), torch.full((32, 64), 2.0))


def test_whole_numbers_that_have_no_scales_are_no_words(tmp_path: Path) -> None:
    tensors = {"q.weight": torch.ones(8, 8), "ids.weight": torch.zeros(8, 4, dtype=torch.int64)}
    assert set(open_checkpoint(in_folder(tmp_path, tensors, {})).names()) == tensors.keys()
