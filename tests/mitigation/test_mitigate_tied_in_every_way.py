"""Every way of PEFT to change an embedding that is the head: what is written has the logits of the live adapter."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import intruders
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.errors import CheckpointError, SettingError
from intruders.mitigation.beyond_doses import require_only_matrices
from intruders.mitigation.remedies.shares import Interpolate
from tests.checkpoints.models import moved, saved, tiny_llama
from tests.mitigation.hot import places_of_intruders, scaled

peft = pytest.importorskip("peft")

IDS = torch.tensor([[5, 20, 31, 7, 12]])
K, EPSILON = 4, 0.8
ROUNDED = {"atol": 1e-4, "rtol": 1e-4}
WAYS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}
CASES = [(True, False, way) for way in WAYS] + [(True, True, way) for way in WAYS]
CASES += [(False, False, way) for way in WAYS]


@dataclass
class Made:
    """Base and adapter on disk, and the weights that the live adapter computes with."""

    is_tied: bool
    way: str
    base: Path
    adapter: Path
    model: Any
    before: dict[str, Tensor]
    after: dict[str, Tensor]

    def is_one(self) -> bool:
        return torch.equal(self.after["lm_head"], self.after["model.embed_tokens"])

    def changed(self) -> list[str]:
        return [name for name in self.before if not torch.equal(self.before[name], self.after[name])]


def weights(model: Any) -> dict[str, Tensor]:
    """What PEFT computes with, by module: a weight with its update, or the one that is stored in its place."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if not name.endswith(("q_proj", "embed_tokens", "lm_head")):
            continue
        if hasattr(module, "get_delta_weight"):
            weight = module.base_layer.weight + module.get_delta_weight("default")
        elif hasattr(module, "modules_to_save"):
            weight = module.modules_to_save["default"].weight
        else:
            weight = module.weight
        found[name] = weight.detach().clone()
    return found


def made(folder: Path, is_tied: bool, ensures: bool, way: str) -> Made:
    if ensures and "ensure_weight_tying" not in peft.LoraConfig.__dataclass_fields__:
        pytest.skip("this PEFT does not tie adapters")
    base: Any = moved(tiny_llama(tie_word_embeddings=is_tied), 0.2, 0)
    saved(base, folder / "base")
    settings = copy.deepcopy(WAYS[way]) | ({"ensure_weight_tying": True} if ensures else {})
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, lora_alpha=6, **settings))
    moved(model, 0.3, 1, only=lambda name, parameter: parameter.requires_grad)
    saved(model.eval(), folder / "tuned")
    after = weights(model)
    before = {name: base.get_submodule(name).weight.detach().clone() for name in after}
    return Made(is_tied, way, folder / "base", folder / "tuned", model, before, after)


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def with_weights(base: Path, own: dict[str, Tensor]) -> Tensor:
    """The logits of the base with these weights, and a head of its own."""
    model: Any = loaded(base)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, weight in own.items():
            model.get_submodule(name).weight.copy_(weight)
    return logits_of(model)


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def live(base: Path, adapter: Path) -> Any:
    return peft.PeftModel.from_pretrained(loaded(base), adapter)


def without_intruders(before: Tensor, after: Tensor) -> Tensor:
    places = places_of_intruders(before, after, K, EPSILON)
    assert places
    return scaled(after, places, 0.0).float()


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return made(tmp_path, *request.param)


def test_what_is_written_has_the_logits_of_the_adapter(case: Made, tmp_path: Path) -> None:
    own = logits_of(case.model)
    torch.testing.assert_close(with_weights(case.base, case.after), own, **ROUNDED)
    for scale in (1.0, 0.5, 0.0):
        between = {name: first + scale * (case.after[name] - first) for name, first in case.before.items()}
        wanted = with_weights(case.base, between)
        for form in ("checkpoint", "adapter"):
            out = tmp_path / f"{scale}-{form}"
            intruders.write_at_scale(case.base, case.adapter, scale, out, form=form)
            written = loaded(out) if form == "checkpoint" else live(case.base, out)
            torch.testing.assert_close(logits_of(written), wanted, **ROUNDED)
    out = tmp_path / "interpolated"
    intruders.mitigate(case.base, case.adapter, remedy=Interpolate(alpha=0.0), out=out, check=False)
    torch.testing.assert_close(logits_of(live(case.base, out)), wanted, **ROUNDED)
    # Two tensors where the adapter makes two, and one where it has one.
    assert loaded(tmp_path / "1.0-checkpoint").config.tie_word_embeddings == case.is_one()
    assert intruders.verify(case.base, case.adapter, tmp_path / "1.0-checkpoint").exit_status() == 0


def test_its_intruders_are_removed_from_each_tensor_once(case: Made, tmp_path: Path) -> None:
    changed = case.changed()
    removed = {name: without_intruders(case.before[name], case.after[name]) for name in changed}
    wanted = with_weights(case.base, case.after | removed)
    settings = intruders.AuditSettings(k=K, epsilon=EPSILON, include_embeddings=True)
    is_one = {"lm_head", "model.embed_tokens"} <= set(changed) and case.is_one()
    for form in ("checkpoint", "adapter"):
        out = tmp_path / form
        result = intruders.mitigate(case.base, case.adapter, scale=0.0, out=out, form=form, audit=settings)
        assert len(result.before.matrices) == len(changed) - is_one
        written = loaded(out) if form == "checkpoint" else live(case.base, out)
        torch.testing.assert_close(logits_of(written), wanted, **ROUNDED)


def test_a_merge_is_right_where_its_logits_are_the_adapters(case: Made, tmp_path: Path) -> None:
    own = logits_of(case.model)
    saved(case.model.merge_and_unload(), tmp_path / "merged")
    is_right = torch.allclose(logits_of(loaded(tmp_path / "merged")), own, **ROUNDED)
    assert is_right == (not case.is_tied or case.way.startswith("saved"))
    result = intruders.verify(case.base, case.adapter, tmp_path / "merged")
    assert (result.exit_status() == 0) == is_right


def test_doses_act_on_it_where_it_is_two_tensors(case: Made) -> None:
    refused = pytest.raises(SettingError, match="the embedding and the output head at once")
    with refused if case.is_tied else nullcontext():
        require_only_matrices(open_sides(case.base, case.adapter))


def test_a_model_in_memory_has_the_mitigated_adapter_in_both_uses(tmp_path: Path) -> None:
    case = made(tmp_path, True, False, "both")
    removed = {name: without_intruders(case.before[name], case.after[name]) for name in case.changed()}
    settings = intruders.AuditSettings(k=K, epsilon=EPSILON, include_embeddings=True)
    intruders.mitigate(case.model, scale=0.0, audit=settings)
    wanted = with_weights(case.base, case.after | removed)
    torch.testing.assert_close(logits_of(case.model), wanted, **ROUNDED)


@pytest.mark.parametrize("way", ["both", "saved both"])
def test_a_tied_adapter_in_memory_gets_no_sibling(way: str, tmp_path: Path) -> None:
    """PEFT would add the sibling to the embedding and leave the head without."""
    case = made(tmp_path, True, True, way)
    with pytest.raises(CheckpointError, match="PEFT gives a tied head no second adapter; pass out"):
        intruders.mitigate(case.model, scale=0.0)
    assert list(case.model.peft_config) == ["default"]
    intruders.write_at_scale(case.base, case.model, 1.0, tmp_path / "out", form="checkpoint")
    torch.testing.assert_close(logits_of(loaded(tmp_path / "out")), logits_of(case.model), **ROUNDED)
