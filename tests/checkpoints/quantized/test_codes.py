"""Bytes beside a scale that nobody applied are refused; bytes beside other tensors are not."""

from __future__ import annotations

import pytest
import torch

import intruders
from intruders.checkpoints.quantized.codes import refuse_codes
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
