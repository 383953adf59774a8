"""Methods that act while training: what they promise of the weights, and that PEFT's merge is the trained model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from intruders.audits.audit import audit
from intruders.errors import SettingError
from intruders.models.base_model import base_model_location
from intruders.models.loading import load_model
from intruders.studies.runs import expand
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.methods import prepare
from intruders_research.methods.adapted_modules import adapted_modules
from intruders_research.methods.budget import alpha_pattern
from intruders_research.methods.oplora import ProjectedUpdates
from tests.research.parsed import parsed
from tests.research_commands import plugin_of
from tests.tiny import save_gpt2
from tests.training.test_kl_to_base import check_that_kl_compares_with_the_base
from tests.training.tiny_runs import Interrupt, config_of

K = 4


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """The methods are plugins, and the tests load none unless they ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("intruders.training.methods.needed_plugin", plugin_of)
        yield


def config(base: Path, out: Path | str = "out", **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "lr": 2e-2,
        "steps": 3,
        "alpha": 4,
        "max_train_samples": 20,
        "max_eval_samples": 1,
    }
    return config_of(base, Path(out), **(given | {"oplora_k": K, "drop_too_long": True} | settings))


class KeepWeights(TrainerCallback):  # type: ignore[misc]
    """What the live model does to its matrices at the end of the training."""

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights = {one.name: one.weight + one.update.dense() for one in adapted_modules(model)}


def trained(settings: FinetuneConfig) -> dict[str, torch.Tensor]:
    keeper = KeepWeights()
    finetune(settings, [keeper])
    return keeper.weights


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: m.weight.detach().double() for name, m in model.named_modules() if hasattr(m, "weight")}


def merged(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The matrices that PEFT makes of the adapter on the unchanged base, output side first."""
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_model(str(base), "causal"), str(folder))
    return weights_of(adapted.merge_and_unload())


def base_weights(base: Path) -> dict[str, torch.Tensor]:
    return weights_of(load_model(str(base), "causal"))


METHODS: dict[str, dict[str, Any]] = {
    "oplora": {"method": "oplora"},
    "milora": {"method": "milora", "audit_steps": 3},
    "budget": {"budget": 0.05},
    "plain": {},
    "pilot": {},
}


@pytest.fixture(scope="module")
def runs(
    llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, torch.Tensor]]]:
    """Every remedy trained; those that keep something beside the adapter killed after two steps, and gone on with."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, settings in METHODS.items():
        if name == "pilot":
            settings = {"budget_pilot": str(folder / "plain"), "budget": 0.05}
        one = config(llama, folder / name, save_steps=1, **settings)
        if "method" in settings:
            with pytest.raises(KeyboardInterrupt):
                finetune(one, [Interrupt(2)])
        found[name] = (folder / name, trained(one))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_pefts_merge_on_the_unchanged_base_is_the_trained_model(name: str, llama: Path, runs: Any) -> None:
    folder, live = runs[name]
    saved, before = merged(llama, folder), base_weights(llama)
    assert len(live) == 14
    for module, weight in live.items():
        torch.testing.assert_close(saved[module], weight, atol=1e-6, rtol=1e-5)
        assert float((weight - before[module]).norm()) > 1e-4  # something was trained


def test_oplora_leaves_the_leading_triplets_where_they_were(llama: Path, runs: Any) -> None:
    before = base_weights(llama)
    for name, weight in merged(llama, runs["oplora"][0]).items():
        if name not in runs["oplora"][1]:
            continue
        x, values, zt = torch.linalg.svd(before[name], full_matrices=False)
        for i in range(K):
            close = {"atol": 2e-6 * float(values[0]), "rtol": 0}
            torch.testing.assert_close(weight @ zt[i], values[i] * x[:, i], **close)
            torch.testing.assert_close(weight.mT @ x[:, i], values[i] * zt[i], **close)


def test_oplora_is_the_training_with_the_projections_in_the_model(llama: Path) -> None:
    """The same steps of AdamW as with A and B parametrized by their projections."""
    from torch.nn.utils import parametrize

    class Projected(torch.nn.Module):
        def __init__(self, projection: torch.Tensor, is_left: bool) -> None:
            super().__init__()
            self.projection, self.is_left = projection, is_left

        def forward(self, matrix: torch.Tensor) -> torch.Tensor:
            return self.projection @ matrix if self.is_left else matrix @ self.projection

    settings = config(llama, method="oplora", weight_decay=0.3)
    ids = torch.arange(5, 45)[None]
    found = []
    for is_reference in (False, True):
        torch.manual_seed(0)
        model: Any = prepare(load_model(str(llama), "causal"), settings, "causal")
        callback = None if is_reference else ProjectedUpdates(model, K)
        if is_reference:
            for module in list(adapted_modules(model)):
                x, _, zt = torch.linalg.svd(module.weight, full_matrices=False)
                layer = model.base_model.model.get_submodule(module.name)
                for part, vectors in ((layer.lora_A, zt[:K]), (layer.lora_B, x[:, :K].mT)):
                    projection = (torch.eye(vectors.shape[1]) - vectors.mT @ vectors).float()
                    projected = Projected(projection, part is layer.lora_B)
                    parametrize.register_parametrization(part["default"], "weight", projected)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.3)
        for _ in range(3):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            if callback is not None:
                callback.on_optimizer_step(None, None, None)
            optimizer.zero_grad()
        found.append({one.name: one.update.dense() for one in adapted_modules(model)})
    for name, update in found[0].items():
        torch.testing.assert_close(update, found[1][name], atol=1e-6, rtol=1e-4)


def test_milora_starts_from_the_smallest_triplets(llama: Path) -> None:
    before = base_weights(llama)
    model = prepare(load_model(str(llama), "causal"), config(llama, method="milora"), "causal")
    for one in adapted_modules(model):
        x, values, zt = torch.linalg.svd(before[one.name], full_matrices=False)
        smallest = (x[:, -2:] * values[-2:]) @ zt[-2:]
        torch.testing.assert_close(one.update.dense(), smallest, atol=1e-6, rtol=0)
        torch.testing.assert_close(one.weight + one.update.dense(), before[one.name], atol=1e-7, rtol=0)


def test_an_audit_while_training_milora_is_that_of_the_saved_adapter(llama: Path, runs: Any) -> None:
    import pandas as pd

    folder = runs["milora"][0]
    trace = pd.read_parquet(folder / "intruders.parquet")
    saved = audit(llama, folder, cache=False)
    assert len(saved.matrices) == 14
    for matrix in saved.matrices:
        [size] = set(trace.loc[trace["name"] == matrix.name, "update_frobenius"])
        assert size == pytest.approx(matrix.update.frobenius, rel=1e-3)


def budget_of(weight: torch.Tensor) -> float:
    """0.05 times the spiked threshold, from all singular values."""
    from intruders.linalg.spiked_threshold import Spectrum, spiked_threshold

    values = torch.linalg.svdvals(weight)
    spectrum = Spectrum.of_values(values, (weight.shape[0], weight.shape[1]), min(24, len(values)))
    return 0.05 * spiked_threshold(spectrum, 10, 0.5)


def test_the_clamp_keeps_every_update_in_its_budget(llama: Path, runs: Any) -> None:
    before = base_weights(llama)
    used = {
        name: float(torch.linalg.matrix_norm(weight - before[name], 2)) / budget_of(before[name])
        for name, weight in runs["budget"][1].items()
    }
    assert max(used.values()) <= 1
    assert max(used.values()) > 0.999  # it had to act


def test_a_pilot_sets_the_alpha_of_each_matrix(llama: Path, runs: Any) -> None:
    import json

    before, pilot = base_weights(llama), runs["plain"][1]
    alphas = json.loads((runs["pilot"][0] / "adapter_config.json").read_text())["alpha_pattern"]
    shares = {
        name: budget_of(before[name]) / float(torch.linalg.matrix_norm(weight - before[name], 2))
        for name, weight in pilot.items()
    }
    expected = {name: 4.0 * share for name, share in shares.items() if share < 1}
    assert len(expected) > 0
    assert alphas == pytest.approx(expected, rel=1e-5)
    assert alpha_pattern(base_model_location(str(llama)), str(runs["plain"][0]), 1e9, 4.0) == {}


def test_what_cannot_be_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"budget is 1.0, but the update of method 'dora'"):
        config(llama, method="dora", budget=1.0)
    with pytest.raises(SettingError, match=r"oplora_k is 16, but .* is only 16 wide"):
        finetune(config(llama, tmp_path / "wide", method="oplora", oplora_k=16))
    assert not (tmp_path / "wide" / "run.json").exists()
    with pytest.raises(SettingError, match=r"budget_pilot is .* which is not an adapter"):
        finetune(config(llama, tmp_path / "pilot", budget_pilot=str(llama)))


def test_matrices_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    base = save_gpt2(tmp_path / "gpt2")
    live = trained(config(base, tmp_path / "run", method="milora", steps=1))
    saved = merged(base, tmp_path / "run")
    assert len(live) == 8
    for name, weight in live.items():
        torch.testing.assert_close(saved[name].mT, weight, atol=1e-6, rtol=1e-5)


def test_a_study_takes_them_as_settings() -> None:
    methods = [
        {"method": "lora", "kl_to_base": [0, 0.1], "budget": 0.5},
        {"method": "oplora", "oplora_k": [16, 128]},
        {"method": "full", "kl_to_base": 1.0, "budget": 2.0},
    ]
    close = {"base": "b", "task": "word-problems", "steps": 1, "methods": methods}
    runs = expand(parsed({"experiments": {"close": close}}))
    assert len({run.id for run in runs}) == 5
    assert any("kl0.1" in run.id and "budget0.5" in run.id for run in runs)
    full = next(run.config for run in runs if run.config is not None and run.config.method == "full")
    assert (full.kl_to_base, full.budget) == (1.0, None)


def test_the_kl_of_milora_is_to_the_base_as_it_was(llama: Path) -> None:
    check_that_kl_compares_with_the_base("milora", llama)


def test_what_oplora_takes_out_of_a_before_the_first_step_is_no_movement(llama: Path, tmp_path: Path) -> None:
    run = finetune(config(llama, tmp_path / "run", method="oplora", lr=1e-7, steps=1))
    assert run.record["a_movement"] < 1e-5
