"""One scale where base and tuned model have other names for the same tensors: ``W0 + s D`` by hand is the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.adapted import move
from tests.checkpoints.models import moved
from tests.checkpoints.renamed_families import FAMILIES
from tests.mitigation.hot import assert_share


def in_an_old_file(name: str) -> str:
    """The names that bert-base-uncased has on the hub."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("old", ["base", "tuned"])
def test_norms_named_gamma_and_beta_keep_their_share(old: str, scale: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FAMILIES["bert"]()
    model.save_pretrained(tmp_path / "base")
    moved(model, 0.1, 1).save_pretrained(tmp_path / "tuned")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("base", "tuned"))
    renamed = {in_an_old_file(name): tensor for name, tensor in (before if old == "base" else after).items()}
    save_file(renamed, tmp_path / old / "model.safetensors", metadata={"format": "pt"})
    write_at_scale(str(tmp_path / "base"), str(tmp_path / "tuned"), scale, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    found = {name: written[in_an_old_file(name) if old == "tuned" else name] for name in before}
    assert_share(found, before, after, scale)


def test_tensors_under_a_name_that_is_not_known_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FAMILIES["bert"]()
    model.save_pretrained(tmp_path / "base")
    moved(model, 0.1, 1).save_pretrained(tmp_path / "tuned")
    tuned = load_file(tmp_path / "tuned" / "model.safetensors")
    other = {name.replace("LayerNorm.bias", "LayerNorm.shift"): tensor for name, tensor in tuned.items()}
    save_file(other, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="no tensor under a known name for .*LayerNorm.bias"):
        write_at_scale(str(tmp_path / "base"), str(tmp_path / "tuned"), 0.5, tmp_path / "out")


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_head_that_whisper_ties_keeps_its_share(scale: float, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    torch.manual_seed(0)
    model = FAMILIES["whisper"]()
    model.save_pretrained(base)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["proj_out"])
    )
    move(adapted, seed=1, size=0.5)
    adapted.save_pretrained(adapter)
    write_at_scale(str(base), str(adapter), scale, tmp_path / "out")
    before = load_file(base / "model.safetensors")["model.decoder.embed_tokens.weight"]
    own = "base_model.model.proj_out.weight"
    tuned, written = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "out"))
    assert_share(written, {own: before}, tuned, scale)
