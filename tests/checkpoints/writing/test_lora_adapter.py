"""Rewritten LoRA adapters as PEFT loads them, whatever the start of the one that was given."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.writing.lora_adapter import read_lora, rewritten
from intruders.linalg.low_rank import LowRank
from tests.checkpoints.models import merged_weights, randomize_adapter, saved, tiny_llama


@pytest.mark.parametrize("start", ["orthogonal", "mica", "eva", "gaussian", False, True])
def test_peft_loads_a_module_of_an_odd_rank(tmp_path: Path, start: str | bool) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    model = get_peft_model(tiny_llama(), config)
    randomize_adapter(model)
    adapter = read_lora(saved(model, tmp_path / "given"), "given", open_checkpoint(tiny_llama()))
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator) for shape in ((16, 5), (5, 16)))
    changed = "model.layers.1.self_attn.q_proj"
    new = rewritten(adapter, {changed: lambda update: LowRank(left, right)})
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "adapter_config.json").write_text(json.dumps(new.config))
    save_file(new.tensors, tmp_path / "new" / "adapter_model.safetensors")

    wanted = merged_weights(model)
    base = tiny_llama()
    wanted[f"{changed}.weight"] = base.state_dict()[f"{changed}.weight"] + left @ right
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as one of missing tensors
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "new"))
    for name, tensor in merged_weights(loaded).items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-5, rtol=1e-4, msg=name)
