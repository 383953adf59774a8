"""The output energy of an update, against a difference of two forward passes of the same layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from intruders.errors import CheckpointError
from intruders.measures.output_energy import output_energy
from tests.tiny import save_gpt2, save_llama, with_update

NAME = "model.layers.0.self_attn.q_proj"


def test_energy_is_what_the_update_adds_to_the_bases_outputs(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    weight = load_file(base / "model.safetensors")[f"{NAME}.weight"]
    update = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    documents = ["a b c", "the second text, a longer one"]
    found = output_energy(
        str(base), with_update(base, tmp_path / "tuned", f"{NAME}.weight", update), documents
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    inputs: list[torch.Tensor] = []
    model.get_submodule(NAME).register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
    with torch.no_grad():
        for text in documents:
            model(**tokenizer(text, return_tensors="pt"))
    h = torch.cat(inputs).double()
    assert found.tokens == len(h)
    energy = float((h @ update.double().T).square().sum(-1).mean())
    base_energy = float((h @ weight.double().T).square().sum(-1).mean())
    assert list(found.of_update) == [f"{NAME}.weight"]
    assert found.of_update[f"{NAME}.weight"] == pytest.approx(energy, rel=1e-4)
    assert found.mean_relative == pytest.approx(energy / base_energy, rel=1e-4)
    with pytest.raises(CheckpointError, match="none of the 0 changed matrices"):
        output_energy(str(base), str(base), documents)


@pytest.mark.parametrize("module", ["attn.c_attn", "attn.c_proj", "mlp.c_fc"])
def test_gpt2_has_energies_though_its_weights_have_the_inputs_first(module: str, tmp_path: Path) -> None:
    base, name = save_gpt2(tmp_path / "base"), f"transformer.h.0.{module}"
    weight = load_file(base / "model.safetensors")[f"{name}.weight"]  # (in, out)
    update = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    after = with_update(base, tmp_path / "tuned", f"{name}.weight", update)
    found = output_energy(str(base), after, ["a b c", "the second text, a longer one"], window=3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    inputs: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
    with torch.no_grad():
        for text in ("a b c", "the second text, a longer one"):
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=3))
    h = torch.cat(inputs).double()
    assert found.tokens == len(h)
    [(own, energy)] = found.of_update.items()
    assert own.endswith(f"h.0.{module}.weight")
    assert energy == pytest.approx(float((h @ update.double()).square().sum(-1).mean()), rel=1e-4)
    assert found.of_base[own] == pytest.approx(float((h @ weight.double()).square().sum(-1).mean()), rel=1e-4)
