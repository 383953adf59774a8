"""Tuned heads on a base whose embedding is the head: PEFT's own logits of what was written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from intruders.audits.audit_settings import AuditSettings
from intruders.errors import SettingError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama

IDS = torch.tensor([[5, 20, 31, 7, 12]])
HEAD = "base_model.model.lm_head.weight"
FORMS: dict[str, dict[str, Any]] = {
    "in full": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "factors": {"target_modules": ["q_proj", "lm_head"]},
}


def models(folder: Path, form: str) -> tuple[Path, Path]:
    base = tiny_llama(tie_word_embeddings=True)
    saved(base, folder / "base")
    model = hot_llama(model=copy.deepcopy(base), **FORMS[form])
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape)
    saved(model, folder / "tuned")
    return folder / "base", folder / "tuned"


def logits(base: Path, adapter: Path | None = None) -> Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def at(way: str, share: float, base: Path, tuned: Path, out: Path) -> None:
    if way == "scale":
        write_at_scale(base, tuned, share, out)
    else:
        mitigate(base, tuned, remedy=Interpolate(alpha=share), out=out, check=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["scale", "interpolate"])
def test_at_zero_it_is_the_base(form: str, way: str, tmp_path: Path) -> None:
    base, tuned = models(tmp_path, form)
    at(way, 0.0, base, tuned, tmp_path / "out")
    assert not torch.allclose(logits(base, tuned), logits(base), atol=1e-2)
    torch.testing.assert_close(logits(base, tmp_path / "out"), logits(base))


@pytest.mark.parametrize("way", ["scale", "interpolate"])
def test_a_head_in_full_is_between_the_embedding_and_the_tuned_one(way: str, tmp_path: Path) -> None:
    base, tuned = models(tmp_path, "in full")
    at(way, 0.3, base, tuned, tmp_path / "out")
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    head, now = (
        load_file(folder / "adapter_model.safetensors")[HEAD] for folder in (tuned, tmp_path / "out")
    )
    torch.testing.assert_close(now, embedding + 0.3 * (head - embedding))


def test_intruders_of_a_head_in_full_are_scaled(tmp_path: Path) -> None:
    """``H + (0 - 1) sum_j s_j y_j v_j^T`` over the intruders j, with s, y and v from a dense decomposition of H."""
    base, tuned = models(tmp_path, "in full")
    settings = AuditSettings(k=4, epsilon=0.9, include_embeddings=True)
    result = mitigate(base, tuned, scale=0.0, out=tmp_path / "out", audit=settings)
    [audited] = [matrix for matrix in result.before.matrices if matrix.name == "lm_head.weight"]
    intruders = [vector.index for vector in audited.vectors if vector.intruder]
    assert intruders
    head, now = (
        load_file(folder / "adapter_model.safetensors")[HEAD] for folder in (tuned, tmp_path / "out")
    )
    left, values, right = torch.linalg.svd(head.double(), full_matrices=False)
    removed = left[:, intruders] * values[intruders] @ right[intruders]
    torch.testing.assert_close(now.double(), head.double() - removed, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_with_a_head_of_its_own_is_not_interpolated(tmp_path: Path) -> None:
    base = tiny_llama(tie_word_embeddings=True)
    saved(base, tmp_path / "base")
    untied = tiny_llama(1, tie_word_embeddings=False)
    saved(untied, tmp_path / "tuned")
    sides = tmp_path / "base", tmp_path / "tuned"
    with pytest.raises(SettingError, match="has an output head of its own"):
        mitigate(*sides, remedy=Interpolate(alpha=0.5), out=tmp_path / "out")
    # Scaled intruders change matrices that the audit examines, and the head is none of them.
    mitigate(*sides, scale=0.5, out=tmp_path / "out", check=False)
