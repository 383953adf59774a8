"""Doses beside a model's weights, against the weights themselves and autograd on them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.experiments import dosed_model
from intruders.experiments.dosed_model import ELSEWHERE, DoseVector, dose_groups, put_in_doses, rates_of
from intruders.experiments.open_dosed import DosedModels, read_updates, tuned_elsewhere
from intruders.linalg.low_rank import LowRank
from intruders.models.loading import load_model
from intruders.models.loading_settings import Loading
from intruders.models.tuned_model import OpenedModel, open_language_model
from intruders.system.progress import silent
from tests.checkpoints.models import moved_mixtral, tiny_gpt_oss
from tests.experiments.healed_models import adapter_of, llama_and_adapter, read_sides, tuned_in_full
from tests.tiny import save_gpt2

from .healed_models import IDS


def sides_of(kind: str, folder: Path) -> tuple[str, str]:
    if kind == "conv1d":
        base = save_gpt2(folder / "base")
        return str(base), adapter_of(base, folder / "tuned", ("c_attn", "c_fc"), fan_in_fan_out=True)
    base, adapter = llama_and_adapter(folder)
    return (base, adapter) if kind == "lora" else (base, tuned_in_full(base, folder / "full"))


def loss_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])


@pytest.mark.parametrize("kind", ["lora", "conv1d", "full"])
def test_the_gradient_in_a_dose_is_that_of_the_weights_along_the_update(kind: str, tmp_path: Path) -> None:
    """``dL/da_m = <dL/dW_m, D_m>`` with both sides by autograd on whole weights, ``W_m = W0_m + a_m D_m``."""
    base, tuned = sides_of(kind, tmp_path)
    before, after = open_sides(base, tuned)
    pairs = pair_sides(before, after, EVERY_MATRIX).pairs
    updates = read_updates(pairs, "matrix", torch.device("cpu"), silent)
    opened = open_language_model(tuned, base, merged=True)
    opened.model.requires_grad_(False).eval()
    whole: Any = load_model(base, "causal").eval()
    moved = dict(open_language_model(tuned, base, merged=True).model.named_parameters())
    others = tuned_elsewhere(opened.model, before, [pair.name for pair in pairs])
    assert bool(others) == (kind == "full")
    groups = dose_groups(list(updates), "matrix", with_elsewhere=bool(others))
    values = torch.rand(len(groups.names), generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = dict(whole.named_parameters())
    changes = {name: moved[name].data - weight.data for name, weight in own.items()}
    places = {name: groups.places.get(name) or groups.places[ELSEWHERE] for name in [*updates, *others]}
    for name, (place,) in places.items():
        own[name].data += float(values[place].detach()) * changes[name]
    loss_of(whole).backward()
    wanted = torch.zeros(len(values))
    for name, (place,) in places.items():
        wanted[place] += (own[name].grad * changes[name]).sum()
    doses = DoseVector(values)
    put_in_doses(opened.model, before, updates, groups, doses, others)
    loss = loss_of(opened.model)
    loss.backward()
    assert torch.allclose(loss, loss_of(whole), atol=1e-6)
    assert torch.allclose(values.grad, wanted, rtol=2e-3, atol=2e-6)
    # Without doses it is the base to the bit, and with all the tuned model.
    with torch.no_grad():
        of_base = load_model(base, "causal").eval()(input_ids=IDS).logits
        of_tuned = open_language_model(tuned, base).model.eval()(input_ids=IDS).logits
        with doses.at(torch.ones_like(values)):
            assert torch.allclose(opened.model(input_ids=IDS).logits, of_tuned, atol=2e-5)
        with doses.off():
            assert torch.equal(opened.model(input_ids=IDS).logits, of_base)


@pytest.mark.parametrize(("per", "count"), [("matrix", 4), ("layer", 2), ("kind", 2)])
def test_matrices_share_a_dose_by_layer_or_kind(per: str, count: int) -> None:
    names = [f"model.layers.{layer}.{kind}.weight" for layer in (0, 1) for kind in ("q_proj", "up_proj")]
    groups = dose_groups(names, per, with_elsewhere=True)
    assert len(groups.names) == count + 1
    assert groups.places[ELSEWHERE] == (count,)
    same = groups.places[names[0]] == groups.places[names[1]]
    assert same == (per == "layer")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_the_branch_of_a_dose_is_rounded_as_a_layer_is(dtype: str, tmp_path: Path) -> None:
    """Against double precision: in bfloat16 factors, inner products and branch are rounded; float16 would overflow."""
    models = llama_and_adapter(tmp_path)
    before, updates, groups = read_sides(models)
    opened = open_language_model(models[0], loading=Loading(dtype=dtype))
    opened.model.requires_grad_(False).eval()
    values = torch.full((len(groups.names),), 0.3, requires_grad=True)
    name = next(iter(updates))
    layer: Any = opened.model.get_submodule(name.removesuffix(".weight"))
    inputs = torch.randn(5, layer.in_features).to(opened.dtype)
    own = layer(inputs)
    put_in_doses(opened.model, before, updates, groups, DoseVector(values))
    given = layer(inputs)
    left, right, x = updates[name].left.double(), updates[name].right.double(), inputs.double()
    sum_of_both = own.double() + 0.3 * (x @ right.mT) @ left.mT
    size = 0.3 * (x.abs() @ right.abs().mT) @ left.abs().mT
    unit = torch.finfo(opened.dtype).eps / 2
    roundings = (
        4.01 if dtype == "bfloat16" else 0.01
    )  # of both factors, of what is between them, of the branch
    bound = unit * sum_of_both.abs() + roundings * unit * size * (1 + 3 * unit)
    assert given.dtype == opened.dtype
    assert bool(((given.double() - sum_of_both).abs() <= bound * (1 + unit)).all())
    # Of an update in full the update and its product are rounded.
    whole = (left @ right).float()
    product, size = dosed_model._times(whole, inputs, torch.tensor(0.3)), x.abs() @ whole.double().abs().mT
    assert bool(((product.double() - 0.3 * x @ whole.double().mT).abs() <= 0.3 * 2.01 * unit * size).all())
    loss_of(opened.model).backward()
    assert values.grad.dtype == torch.float32


def test_more_is_added_to_dosed_stacks_of_experts(tmp_path: Path) -> None:
    """``W0 + 0.5 D + C`` of experts in one tensor, against the same weights written by hand."""
    whole: Any = tiny_gpt_oss()
    ids = IDS % 40  # its vocabulary
    stacked = {name: weight for name, weight in whole.named_parameters() if weight.dim() == 3}
    for weight in stacked.values():
        weight.data *= 0.1
    whole.save_pretrained(tmp_path / "base")
    changes = {name: 0.1 * torch.randn(weight.shape) for name, weight in stacked.items()}
    for name, weight in stacked.items():
        weight.data += changes[name]
    whole.save_pretrained(tmp_path / "tuned")
    before, updates, groups = read_sides((str(tmp_path / "base"), str(tmp_path / "tuned")))
    name = next(name for name in updates if name.endswith("experts.down_proj[1]"))
    tensor = name.removesuffix("[1]")
    added = LowRank(torch.randn(16, 1), 0.1 * torch.randn(1, 16))  # output first; stored input side first

    def by_hand(dose: float, extra: float) -> torch.Tensor:
        for own, weight in stacked.items():
            weight.data = of_base[own] + dose * changes[own]
        stacked[tensor].data[1] += extra * added.dense().mT
        return whole(input_ids=ids).logits

    model: Any = load_model(str(tmp_path / "tuned"), "causal").eval()
    of_base = {own: before.read(own) for own in stacked}
    doses = DoseVector(torch.full((len(groups.names),), 0.5))
    dosed = DosedModels(OpenedModel(model, None, 64), {}, updates, groups, doses)
    put_in_doses(model, before, updates, groups, doses)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, by_hand(0.5, 0.0), atol=1e-5)
        dosed.add({name: added}, 1.0)
        assert torch.allclose(model(input_ids=ids).logits, by_hand(0.5, 1.0), atol=1e-5)
        assert not torch.allclose(by_hand(0.5, 1.0), by_hand(0.5, 0.0), atol=1e-3)
        with doses.off():
            assert torch.equal(model(input_ids=ids).logits, by_hand(0.0, 0.0))


@pytest.mark.parametrize("kept", ["", ".w3."], ids=["all matrices", "one of each expert"])
def test_doses_of_experts_that_the_base_stores_one_by_one(kept: str, tmp_path: Path) -> None:
    """``W0 + a_m D_m`` with a dose for each expert's matrix, and one for all other tensors, by whole weights."""
    base, tuned, _ = moved_mixtral(tmp_path)
    ids = IDS % 40  # its vocabulary
    before, after = open_sides(base, tuned)
    pairs = [pair for pair in pair_sides(before, after).pairs if kept in pair.name]
    updates = read_updates(pairs, "matrix", torch.device("cpu"), silent)
    model: Any = load_model(tuned, "causal").eval().requires_grad_(False)
    others = tuned_elsewhere(model, before, list(updates))
    groups = dose_groups(list(updates), "matrix", with_elsewhere=bool(others))
    values = torch.rand(len(groups.names), generator=torch.Generator().manual_seed(0)).requires_grad_()
    dose = values.detach()

    def of(name: str) -> float:
        return float(dose[groups.places[name if name in groups.places else ELSEWHERE][0]])

    folder = tmp_path / "by_hand"
    folder.mkdir()
    wanted = {
        name: before.read(name) + of(name) * (after.read(name) - before.read(name)) for name in before.names()
    }
    save_file(wanted, folder / "model.safetensors")
    shutil.copy(Path(base) / "config.json", folder)
    by_hand: Any = load_model(str(folder), "causal").eval()
    doses = DoseVector(values)
    put_in_doses(model, before, updates, groups, doses, others)
    loss = loss_of(model, ids)
    loss.backward()
    assert torch.allclose(loss, loss_of(by_hand, ids), atol=1e-5)
    with torch.no_grad(), doses.off():
        assert torch.equal(
            model(input_ids=ids).logits, load_model(base, "causal").eval()(input_ids=ids).logits
        )
    name = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
    change = after.read(name) - before.read(name)
    loss_of(by_hand, ids).backward()
    stacked = by_hand.get_parameter("model.layers.0.mlp.experts.gate_up_proj").grad
    slope = float((stacked[1, 24:] * change).sum())
    assert float(values.grad[groups.places[name][0]]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("shape", [(6, 9, 1), (9, 6, 3)])
def test_a_step_at_its_rate_changes_at_most_its_share_of_an_update(shape: tuple[int, int, int]) -> None:
    """However a step's signs fall, and however a factor is divided between both."""
    rows, columns, rank = shape
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn((rows, rank), generator=generator)
    right = torch.randn((rank, columns), generator=generator)
    whole = torch.linalg.matrix_norm(left @ right)
    for c in (1.0, 50.0):
        update = LowRank(c * left, right / c)
        of_left, of_right = rates_of(update, 0.1)
        for _ in range(20):
            signs = torch.randn(update.left.shape, generator=generator).sign()
            assert torch.linalg.matrix_norm(of_left * signs @ update.right) <= 0.05 * whole * (1 + 1e-5)
            signs = torch.randn(right.shape, generator=generator).sign()
            assert torch.linalg.matrix_norm(update.left @ (of_right * signs)) <= 0.05 * whole * (1 + 1e-5)
    [of_dense] = rates_of(left @ right, 0.1)
    assert of_dense * (rows * columns) ** 0.5 == pytest.approx(0.1 * float(whole), rel=1e-5)
