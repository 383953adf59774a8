"""What each method trains and starts from, against the libraries' own models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.errors import SettingError
from intruders.models.loading import load_model
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.methods import go_on_from, make_optimizer, prepare
from tests.checkpoints.models import tiny_mixtral
from tests.tiny import save_bert
from tests.training.tiny_runs import OURS, logits_of


def _config(method: str, base: Path, **settings: Any) -> FinetuneConfig:
    given = {"rank": 4, "alpha": 8, "lr": 1e-3, "steps": 1} | settings
    return FinetuneConfig(base=str(base), task="word-problems", out="out", method=method, **given)


def _prepared(method: str, base: Path, **settings: Any) -> Any:
    return prepare(load_model(str(base), "causal"), _config(method, base, **settings), "causal")


def _adapted(model: Any) -> set[str]:
    names = {name for name, _ in model.named_parameters() if "lora_A" in name}
    return {name.removeprefix("base_model.model.").partition(".lora_A")[0] for name in names}


@pytest.mark.parametrize("method", OURS)
def test_every_method_starts_as_the_base(method: str, llama: Path) -> None:
    expected = logits_of(load_model(str(llama), "causal"))
    torch.testing.assert_close(logits_of(_prepared(method, llama)), expected, atol=1e-5, rtol=1e-4)


def test_full_trains_the_linear_weights_only_and_lora_adapts_these(llama: Path) -> None:
    model = _prepared("full", llama)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"model.layers.{layer}.{module}.weight"
        for layer in (0, 1)
        for module in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    }  # fmt: skip
    assert all(p.requires_grad for p in _prepared("full", llama, train_all=True).parameters())
    assert _adapted(_prepared("lora", llama)) == {name.removesuffix(".weight") for name in trained}


def test_full_trains_fused_experts() -> None:
    """Their matrices are one parameter with an axis of experts, in no linear module."""
    model = prepare(tiny_mixtral(), _config("full", Path("base")), "causal")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")} <= trained
    assert "model.embed_tokens.weight" not in trained


def test_full_trains_a_classification_head(tmp_path: Path) -> None:
    classifier = load_model(str(save_bert(tmp_path / "bert")), "classification", ["a", "b"])
    bert = prepare(classifier, _config("full", tmp_path), "classification")
    trained = {name for name, p in bert.named_parameters() if p.requires_grad}
    assert {"classifier.weight", "classifier.bias", "bert.encoder.layer.0.output.dense.weight"} <= trained
    assert "bert.encoder.layer.0.output.dense.bias" not in trained
    assert not any("embeddings" in name or "LayerNorm" in name for name in trained)


@pytest.mark.parametrize(
    ("method", "scale"), [("lora", 8 / 4), ("rslora", 8 / 2), ("b-only", 8 / 4), ("lora+", 8 / 4)]
)
def test_scale_is_pefts(method: str, scale: float, llama: Path) -> None:
    model = _prepared(method, llama)
    scales = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "scaling")}
    assert scales == {scale}


@pytest.mark.parametrize("method", ["lora-fa", "b-only"])
def test_frozen_a_stays_and_can_have_orthonormal_rows(method: str, llama: Path) -> None:
    model = _prepared(method, llama, init_a="orthonormal")
    rows = [p for name, p in model.named_parameters() if "lora_A" in name]
    assert len(rows) == 14
    for a in rows:
        assert not a.requires_grad
        torch.testing.assert_close(a @ a.T, torch.eye(4), atol=1e-5, rtol=0)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_B"}


def test_lora_plus_gives_b_and_the_biases_of_a_head_a_higher_rate(tmp_path: Path) -> None:
    """As the page of the methods says of PEFT's optimizer, by the rates that parameters have in it."""
    base = save_bert(tmp_path / "base")
    config = _config("lora+", base, loraplus_lr_ratio=8.0)
    model = prepare(load_model(str(base), "classification", ["no", "yes"]), config, "classification")
    optimizer = make_optimizer(model, config)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trained = {name: rate[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    for name, own in trained.items():
        assert own == pytest.approx(8e-3 if "lora_B" in name or name.endswith(".bias") else 1e-3), name
    assert any("classifier" in name and name.endswith(".bias") for name in trained)


def test_alpha_may_be_a_multiple_of_the_rank(llama: Path) -> None:
    assert _config("lora", llama, rank=16, alpha="2r").lora_alpha == 32
    assert _config("lora", llama, rank=3, alpha="0.5r").lora_alpha == 1.5
    assert _config("lora", llama, rank=3, alpha="r").lora_alpha == 3


def test_an_adapter_goes_on_only_with_the_scale_that_it_has(llama: Path, tmp_path: Path) -> None:
    earlier = _prepared("rslora", llama, alpha=8)
    torch.manual_seed(1)
    for name, parameter in earlier.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    earlier.save_pretrained(tmp_path)
    same = _prepared("rslora", llama, alpha=8)
    go_on_from(same, str(tmp_path), str(llama))
    merged = same.merge_and_unload().state_dict()
    for name, weight in earlier.merge_and_unload().state_dict().items():
        assert torch.equal(merged[name], weight)
    with pytest.raises(SettingError, match="has lora_alpha 8, and this run has 32"):
        go_on_from(_prepared("rslora", llama, alpha=32), str(tmp_path), str(llama))
    with pytest.raises(SettingError, match="has use_rslora True, and this run has False"):
        go_on_from(_prepared("lora", llama, alpha=8), str(tmp_path), str(llama))


@pytest.mark.parametrize(
    ("given", "layers", "names"),
    [
        ("q_proj", {0, 1}, {"q_proj"}),
        ("q_proj, v_proj", {0, 1}, {"q_proj", "v_proj"}),
        ("model.layers.1.self_attn.q_proj", {1}, {"q_proj"}),
        (r".*\.0\..*\.[qv]_proj", {0}, {"q_proj", "v_proj"}),
        ("model.layers.....lf_attn.k_proj", {0, 1}, {"k_proj"}),
    ],
)
def test_a_text_is_names_or_a_pattern(given: str, layers: set[int], names: set[str], llama: Path) -> None:
    expected = {f"model.layers.{layer}.self_attn.{name}" for layer in layers for name in names}
    assert _adapted(_prepared("lora", llama, target_modules=given)) == expected
    assert _config("lora", llama, target_modules=given).recorded()["target_modules"] == given


def test_what_cannot_be_adapted_is_said(llama: Path) -> None:
    with pytest.raises(SettingError, match=r"target_modules is '\*q_proj', which is not a regular .*; use"):
        _prepared("lora", llama, target_modules="*q_proj")
    with pytest.raises(SettingError, match="match no module"):
        _prepared("lora", llama, target_modules=("nothing",))
    with pytest.raises(SettingError, match=r"rank is 17, but .*k_proj is only 16 wide"):
        _prepared("pissa", llama, rank=17)
