"""The recipe for mergekit: its task arithmetic by hand, W0 + weight * (W - W0) with the first filter in a name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from intruders.audits.audit_settings import AuditSettings
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.doses import Doses
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import moved, saved, tiny_llama
from tests.checkpoints.other_programs import peft_lora


def by_recipe(file: Path, tuned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As MergeKit 0.1.5 does it: evaluate_setting of config.py, GeneralizedTaskArithmeticMerge.merge_group."""
    recipe: dict[str, Any] = yaml.safe_load(file.read_text())
    assert (recipe["merge_method"], recipe["dtype"]) == ("task_arithmetic", "float32")
    [model] = recipe["models"]
    merged = {}
    for name, before in load_file(Path(recipe["base_model"]) / "model.safetensors").items():
        weights = model["parameters"]["weight"]
        weight = next(entry["value"] for entry in weights if entry.get("filter", "") in name)
        sum_of_both = before.float() + weight * (tuned[name].float() - before.float())
        merged[name] = sum_of_both.to(getattr(torch, recipe["out_dtype"]))
    return merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dose_for_every_matrix_is_a_weight_for_it(dtype: torch.dtype, tmp_path: Path) -> None:
    base = tiny_llama(num_hidden_layers=11).to(dtype)  # layers 1 and 10
    base_folder, tuned_folder = saved(base, tmp_path / "base"), tmp_path / "tuned"
    saved(moved(copy.deepcopy(base), 0.1, 0), tuned_folder)
    matrices = [name for name, tensor in base.state_dict().items() if tensor.dim() == 2]
    doses = {name: [1.3 - number / 50] for number, name in enumerate(matrices)}
    remedy = Doses(doses=doses, elsewhere=0.4)
    mitigate(
        base_folder, tuned_folder, remedy=remedy, out=tmp_path / "out", audit=AuditSettings(k=2), check=False
    )
    wanted = by_recipe(tmp_path / "out" / "mergekit.yml", load_file(tuned_folder / "model.safetensors"))
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        step = torch.finfo(dtype).eps
        assert tensor.dtype == wanted[name].dtype == dtype
        torch.testing.assert_close(tensor.double(), wanted[name].double(), rtol=step, atol=1e-7, msg=name)


def test_an_adapter_is_one_that_mergekit_merges_before(tmp_path: Path) -> None:
    merged = peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    write_at_scale(tmp_path / "base", tmp_path / "peft", 0.3, tmp_path / "out", form="checkpoint")
    file = tmp_path / "out" / "mergekit.yml"
    text = file.read_text()
    assert text.startswith("# mergekit-yaml mergekit.yml OUT --lora-merge-cache CACHE\n")
    assert f"model: {tmp_path / 'base'}+{tmp_path / 'peft'}\n" in text
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(tensor, by_recipe(file, merged)[name], rtol=1e-6, atol=1e-7)


def test_what_is_more_than_a_share_of_the_update_has_no_recipe(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path / "base")
    saved(moved(tiny_llama(), 0.5, 0), tmp_path / "tuned")
    result = mitigate(
        tmp_path / "base", tmp_path / "tuned", scale=0.0, out=tmp_path / "out", audit=AuditSettings(k=2)
    )
    assert result.before.intruders > 0
    assert not (tmp_path / "out" / "mergekit.yml").exists()
