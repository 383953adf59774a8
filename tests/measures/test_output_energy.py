"""The output energy of an update, against a difference of two forward passes of the same layer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from intruders.errors import CheckpointError
from intruders.measures.output_energy import output_energy
from tests.tiny import save_gpt2, save_llama, with_update

KINDS = {
    "model.layers.0.self_attn.q_proj": save_llama,
    # Their weights have the inputs first.
    **{f"transformer.h.0.{name}": save_gpt2 for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")},
}


@pytest.mark.parametrize("name", KINDS)
def test_energy_is_what_the_update_adds_to_the_bases_outputs(name: str, tmp_path: Path) -> None:
    base = KINDS[name](tmp_path / "base")
    weight = load_file(base / "model.safetensors")[f"{name}.weight"]
    update = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    documents = ["a b c", "the second text, a longer one"]
    after = with_update(base, tmp_path / "tuned", f"{name}.weight", update)
    window = None if "layers" in name else 3
    found = output_energy(str(base), after, documents, window=window)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    inputs: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
    with torch.no_grad():
        for text in documents:
            model(**tokenizer(text, return_tensors="pt", truncation=window is not None, max_length=window))
    h = torch.cat(inputs).double()
    assert found.tokens == len(h)
    energy, base_energy = (
        float((h @ (side.double().T if "layers" in name else side.double())).square().sum(-1).mean())
        for side in (update, weight)
    )
    assert [own.endswith(f"{name.removeprefix('transformer.')}.weight") for own in found.of_update] == [True]
    assert [*found.of_update.values()] == [pytest.approx(energy, rel=1e-4)]
    assert [*found.of_base.values()] == [pytest.approx(base_energy, rel=1e-4)]
    assert found.mean_relative == pytest.approx(energy / base_energy, rel=1e-4)


def test_without_a_change_there_is_none(tmp_path: Path) -> None:
    base = str(save_llama(tmp_path / "base"))
    with pytest.raises(CheckpointError, match="none of the 0 changed matrices"):
        output_energy(base, base, ["a b c"])
