"""A LoRA on torch's own attention, whose three projections are one weight: its refusal, and what the remedy gives."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import intruders
from intruders.errors import PairingError
from tests.checkpoints.models import set_factors
from tests.tiny import save_weights


class WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(32, 4)
        self.out = nn.Linear(32, 32)

    def forward(self, inputs: Any) -> Any:
        return self.out(self.attn(inputs, inputs, inputs)[0])


def test_it_is_refused_and_its_merge_is_audited(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = WithAttention()
    base = save_weights(tmp_path / "base", model.state_dict())
    adapted: Any = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=2, lora_alpha=4, target_modules=["attn", "out"])
    )
    set_factors(adapted, 1.0, 1)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        PairingError, match=r"changes 'attn', which in .* is torch's MultiheadAttention; .* merge the"
    ):
        intruders.audit(base, tmp_path / "adapter")
    merged = save_weights(tmp_path / "merged", adapted.merge_and_unload().state_dict())
    told = {matrix.name: matrix for matrix in intruders.audit(base, merged, k=4).matrices}
    assert {"attn.in_proj_weight", "attn.out_proj.weight", "out.weight"} <= {
        name.partition("[")[0] for name in told
    }
    before, after = (load_file(folder / "model.safetensors") for folder in (base, merged))
    for name, matrix in told.items():
        if "[" in name:
            continue
        left, right = (torch.linalg.svd(side[name].double())[0] for side in (before, after))
        cosines = (left[:, : min(before[name].shape)].T @ right[:, :4]).abs().amax(0)
        assert matrix.intruders == int((cosines < 0.5).sum())
