"""Rows of a model's layers: against finite differences, and the KL that a small update really makes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from intruders.engine.nats import predict
from intruders.measures.gradients import layer_rows
from intruders.models.loading import load_model
from tests.tiny import save_gpt2, save_llama

KINDS = {"llama": save_llama, "gpt2": save_gpt2}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gradients")
    loaded: Any = load_model(str(KINDS[request.param](folder)), "causal")
    for name, module in loaded.named_modules():
        if type(module).__name__ == "LlamaRMSNorm":  # in single precision, whatever its weights are
            loaded.set_submodule(name, torch.nn.RMSNorm(32, module.variance_epsilon))
    return loaded.double().eval()


def layers_of(model: Any) -> dict[str, Any]:
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    }


def ids_of(model: Any, sequences: int, tokens: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(5, model.config.vocab_size, (sequences, tokens + 1), generator=draw)


def updates_of(layers: dict[str, Any], size: float) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        name: size * torch.randn(*layer.weight.shape, generator=draw, dtype=torch.float64)
        for name, layer in layers.items()
    }


def moved(model: Any, layers: dict[str, Any], updates: dict[str, torch.Tensor], scale: float) -> Any:
    """Return a copy of the model with updates in the layers' own order of dimensions."""
    other = copy.deepcopy(model)
    for name, update in updates.items():
        other.get_submodule(name.removesuffix(".weight")).weight.data += scale * update
    return other


@torch.no_grad()
def scores(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids[:, :-1]).logits
    return logits.log_softmax(-1)


def responses(
    layers: dict[str, Any],
    updates: dict[str, torch.Tensor],
    rows: list[tuple[str, torch.Tensor, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    found = {}
    for name, inputs, gradients in rows:
        update = updates[name].mT if type(layers[name]).__name__ == "Conv1D" else updates[name]
        found[name] = torch.einsum("sltm,mn,stn->sl", gradients, update, inputs)
    return found


def kl_of(model: Any, layers: dict[str, Any], updates: dict[str, torch.Tensor], ids: torch.Tensor) -> float:
    before, after = scores(model, ids), scores(moved(model, layers, updates, 1.0), ids)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_the_response_is_a_central_difference(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the text's own labels in the place of drawn ones."""
    layers, ids = layers_of(model), ids_of(model, 3, 7)
    monkeypatch.setattr("intruders.measures.gradients.drawn_labels", lambda *given: [ids[:, 1:]])
    assert len(layers) >= 8
    updates = updates_of(layers, 1e-2)
    rows = list(layer_rows(model, layers, ids, 1, torch.Generator()))
    assert [name for name, *_ in rows] == list(layers)
    for names in ([next(iter(layers))], list(layers)):
        some = {name: updates[name] for name in names}
        step = 1e-4
        ends = [
            scores(moved(model, layers, some, sign * step), ids).gather(-1, ids[:, 1:, None]).sum((1, 2))
            for sign in (1, -1)
        ]
        found = responses(layers, some, [row for row in rows if row[0] in some])
        total = torch.stack([each[:, 0] for each in found.values()]).sum(0)
        assert torch.allclose(total, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-9)


def test_the_prediction_is_the_kl_of_a_small_update(model: Any) -> None:
    layers, tokens = layers_of(model), 12
    ids = ids_of(model, 24, tokens)
    updates = updates_of(layers, 2e-3)
    rows = list(layer_rows(model, layers, ids, 40, torch.Generator().manual_seed(0)))
    found, shares = predict(responses(layers, updates, rows), tokens, list(range(24)))
    kl = kl_of(model, layers, updates, ids)
    assert found.low <= kl <= found.high
    assert found.estimate == pytest.approx(kl, rel=0.1)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_share_of_a_part_tells_what_is_left_without_it(model: Any) -> None:
    """E[(z - z_m)^2] = E[z^2] (1 - 2 share) + E[z_m^2], and the model without the part has that KL."""
    layers, tokens = layers_of(model), 12
    ids = ids_of(model, 24, tokens)
    updates = updates_of(layers, 2e-3)
    rows = list(layer_rows(model, layers, ids, 40, torch.Generator().manual_seed(0)))
    of_all = responses(layers, updates, rows)
    part = next(iter(layers))
    rest = {name: each for name, each in updates.items() if name != part}
    whole, shares = predict(of_all, tokens, list(range(24)))
    alone, _ = predict({part: of_all[part]}, tokens, list(range(24)))
    left = whole.estimate * (1 - 2 * shares[part]) + alone.estimate
    assert left == pytest.approx(kl_of(model, layers, rest, ids), rel=0.1)


def test_the_models_parameters_and_mode_are_as_before(model: Any) -> None:
    model.train()
    some = list(model.parameters())[-1].requires_grad_(False)
    list(layer_rows(model, layers_of(model), ids_of(model, 1, 5), 1, torch.Generator().manual_seed(0)))
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()].count(False) == 1
    some.requires_grad_(True)
    model.eval()


def test_a_layer_that_is_not_reached_or_reached_twice_is_left_out(model: Any) -> None:
    (name, layer), *_ = layers_of(model).items()
    again: Any = layer.register_forward_hook(lambda module, given, output: again.remove() or module(*given))
    given = {name: layer, "absent": torch.nn.Linear(4, 4), **dict([list(layers_of(model).items())[1]])}
    rows = list(layer_rows(model, given, ids_of(model, 1, 5), 1, torch.Generator()))
    assert [row[0] for row in rows] == list(given)[2:]
