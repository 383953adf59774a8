"""Methods of PEFT that change a layer's bias with its weight, against PEFT's own merges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import intruders
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.errors import CheckpointError, SettingError
from intruders.mitigation.beyond_doses import require_only_matrices
from tests.checkpoints.adapted import move
from tests.checkpoints.models import loaded, merged_weights, saved, tiny_gpt2, tiny_llama, tuned_of

T = ["q_proj", "v_proj", "down_proj"]
METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "ia3": lambda: peft.IA3Config(target_modules=T, feedforward_modules=["down_proj"]),
    "road": lambda: peft.RoadConfig(group_size=8, target_modules=T),
    "glora": lambda: peft.GloraConfig(r=2, target_modules=T),
    "adamss": lambda: peft.AdamssConfig(r=4, num_subspaces=2, subspace_rank=1, target_modules=T),
    "ia3 on Conv1D": lambda: peft.IA3Config(
        target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True
    ),
}


def with_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data = torch.linspace(-1, 1, parameter.numel())
    return model


def base_for(method: str) -> nn.Module:
    model = tiny_gpt2() if "Conv1D" in method else tiny_llama(attention_bias=True, mlp_bias=True)
    return with_biases(model)


def biases(state: dict[str, Tensor], method: str) -> set[str]:
    """Those of the layers that the method changes; IA3 scales the input of feed-forward layers, so not their bias."""
    ends = ("c_attn.bias",) if "Conv1D" in method else ("q_proj.bias", "v_proj.bias", "down_proj.bias")
    return {name for name in state if name.endswith(ends[:2] if method == "ia3" else ends)}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folders(method: str, tmp_path: Path) -> tuple[Path, Path]:
    model = peft.get_peft_model(base_for(method), METHODS[method]())
    move(model, seed=1, size=0.2)
    return saved(base_for(method), tmp_path / "base"), saved(model, tmp_path / "adapter")


def merge(method: str, adapter: Path) -> dict[str, Tensor]:
    return merged_weights(peft.PeftModel.from_pretrained(base_for(method), adapter))


def test_a_checkpoint_has_the_biases_of_pefts_merge(
    method: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = folders
    before, truth = base_for(method).state_dict(), merge(method, adapter)
    changed = biases(truth, method)
    assert changed == {
        name for name in truth if name.endswith(".bias") and not torch.equal(truth[name], before[name])
    }
    for share in (1.0, 0.5):
        out = tmp_path / str(share)
        intruders.write_at_scale(base, adapter, share, out, form="checkpoint")
        written = load_file(out / "model.safetensors")
        for name, tensor in written.items():
            wanted = before[name] + share * (truth[name] - before[name])
            torch.testing.assert_close(tensor, wanted, msg=name)


def test_weights_of_layers_with_biases_are_what_peft_merges(method: str, folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    truth, pairing = merge(method, adapter), pair_sides(*open_sides(base, adapter))
    found = loaded(pairing)
    assert len(found) == (4 if "Conv1D" in method else 6)
    for name, both in found.items():
        wanted = truth[name].mT if "Conv1D" in method else truth[name]
        assert torch.equal(tuned_of(both), wanted), name
    assert set(pairing.biases) == biases(truth, method)
    assert f"changes {len(pairing.biases)} biases with its matrices" in pairing.matched[0]


def test_the_right_merge_is_verified_and_its_biases_are_not_compared(
    method: str, folders: tuple[Path, Path]
) -> None:
    base, adapter = folders
    truth = merge(method, adapter)
    found = intruders.verify(base, adapter, truth)
    assert found.exit_status() == 0
    assert {tensor.name for tensor in found.unchecked} == biases(truth, method)


def test_doses_of_its_matrices_alone_are_refused(method: str, folders: tuple[Path, Path]) -> None:
    with pytest.raises(SettingError, match=r"also changes .*bias.*, which no dose acts on"):
        require_only_matrices(open_sides(*folders))


def test_a_new_adapter_which_could_not_have_the_biases_is_refused(
    method: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"bias', which is not the weight of a linear module"):
        intruders.mitigate(*folders, scale=0.5, out=tmp_path / "out", form="adapter", rank=4)


def test_a_sum_of_two_that_change_one_bias_is_refused(tmp_path: Path) -> None:
    base = saved(base_for("ia3"), tmp_path / "base")
    names = []
    for seed in (1, 2):
        model = peft.get_peft_model(base_for("ia3"), METHODS["ia3"]())
        move(model, seed)
        names.append(str(saved(model, tmp_path / f"adapter{seed}")))
    with pytest.raises(
        CheckpointError, match=r"sum of adapters that change '.*q_proj\.bias'; merge it first"
    ):
        intruders.write_at_scale(base, "+".join(names), 1.0, tmp_path / "out", form="checkpoint")


def test_a_base_without_biases_has_none_to_tell_of(tmp_path: Path) -> None:
    model = peft.get_peft_model(tiny_llama(), METHODS["road"]())
    move(model, seed=1)
    pairing = pair_sides(*open_sides(tiny_llama(), saved(model, tmp_path)))
    assert not pairing.biases
    assert not any("biases" in note for note in pairing.matched)
