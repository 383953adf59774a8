"""What an adapter acts on: weights under names that transformers gives in memory, and joined ones."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import intruders
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.matrices import every_matrix
from intruders.errors import PairingError
from tests.checkpoints.adapted import move
from tests.checkpoints.models import refused, set_factors
from tests.checkpoints.renamed_families import FAMILIES, FAMILIES_CUT
from tests.tiny import save_weights

peft = pytest.importorskip("peft")

LINEAR = {"target_modules": "all-linear"}
ATTENTION = {"target_modules": r".*(q_proj|v_proj)"}
EXPERTS = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
# By family: what is adapted, and how many of the file's matrices that are.
ADAPTED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt_neox": ({"target_modules": ["query_key_value", "lm_head"]}, 3),
    "exaone": (LINEAR, 14),
    "phimoe": ({"target_modules": ["q_proj", "router"]}, 4),
    "granitemoe": (EXPERTS, 16),
    "vit": (LINEAR, 13),
    "beit": (ATTENTION, 4),
    "swin": (ATTENTION, 4),
    "segformer": (ATTENTION, 4),
    "dinov2": (ATTENTION, 4),
    "whisper": ({"target_modules": ["q_proj", "proj_out"]}, 4),
    "internvl": (ATTENTION, 8),
}


def adapter_on(family: str, folder: Path, settings: dict[str, Any]) -> tuple[Path, Path, Path]:
    """Base, adapter and PEFT's merge of both, on disk."""
    base, adapter, merged = (folder / name for name in ("base", "adapter", "merged"))
    torch.manual_seed(0)
    model = FAMILIES[family]()
    model.save_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, **settings))
    move(adapted, seed=1, size=0.5)
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(merged)
    return base, adapter, merged


@pytest.mark.parametrize("family", ADAPTED)
def test_an_adapter_on_renamed_modules_is_audited_as_peft_merges_it(family: str, tmp_path: Path) -> None:
    settings, count = ADAPTED[family]
    base, adapter, merged = adapter_on(family, tmp_path, settings)
    audit = intruders.audit(base, adapter, include_embeddings=True, cache=False)
    before, after = open_checkpoint(str(base)), open_checkpoint(str(merged))
    views = every_matrix(before)
    assert len(audit.matrices) == count
    for matrix in audit.matrices:
        own = "model.decoder.embed_tokens.weight" if matrix.name == "proj_out.weight" else matrix.name
        tensor = views[own].tensor
        dense = [views[own].read(side.tensors[tensor]).double().numpy() for side in (before, after)]
        x = np.linalg.svd(dense[0], full_matrices=False)[0]
        y, values, _ = np.linalg.svd(dense[1], full_matrices=False)
        kept = len(matrix.vectors)
        assert np.allclose([vector.singular_value for vector in matrix.vectors], values[:kept], rtol=1e-3)
        assert matrix.intruders == int((np.abs(x.T @ y[:, :kept]).max(axis=0) < 0.5).sum())
    assert audit.intruders > 0
    # PEFT adds the update of Whisper's head to the head alone, and merges it into the embedding too.
    others = ["model.decoder.embed_tokens.weight"] if family == "whisper" else []
    assert [other.name for other in intruders.verify(base, adapter, merged).others] == others


def test_an_adapter_whose_weights_were_cut_on_loading_is_told_to_be_merged(tmp_path: Path) -> None:
    """nomic-bert's file has q, k and v as one tensor, which transformers cuts."""
    folder = tmp_path / "base"
    model = FAMILIES_CUT["nomic_bert"]()
    model.save_pretrained(folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with refused(re.escape("merge the adapter with PEFT (merge_and_unload"), PairingError):
        intruders.audit(folder, tmp_path / "adapter", cache=False)


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
    with refused(r"changes 'attn', which in .* is torch's MultiheadAttention; .* merge the", PairingError):
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
