"""Whole models with changed matrices, biases and heads, against PEFT and formulas by hand."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

import intruders
from intruders.checkpoints.merges.verdict import APPLIED
from intruders.checkpoints.opening.open import Source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.writing.merged import planned_checkpoint
from intruders.errors import SettingError
from intruders.linalg.pair import Pair
from intruders.mitigation.beyond_doses import require_only_matrices
from tests.checkpoints.adapted import move
from tests.checkpoints.models import (
    SIZES,
    loaded,
    merged_weights,
    moved,
    paired,
    refused,
    saved,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_mixtral,
    with_adapter,
    with_lora,
)
from tests.checkpoints.peft_types import config_of
from tests.tiny import lora

STACKS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def written(base: Source, tuned: Source, **settings: Any) -> dict[str, Tensor]:
    plan = planned_checkpoint(*open_sides(base, tuned), settings.pop("changes", {}), **settings)
    assert all(tuple(planned.read().shape) == planned.shape for planned in plan.values())
    return {name: planned.read().to(planned.dtype) for name, planned in plan.items()}


def assert_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def halved(pair: Pair, dtype: torch.dtype) -> Tensor:
    return ((pair.base.double() + pair.dense().double()) / 2).to(dtype)


@pytest.mark.parametrize(
    "settings", [STACKS, {"modules_to_save": ["experts"]}], ids=["factors", "stored in full"]
)
def test_experts_of_an_adapter_on_a_base_that_has_them_one_by_one(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = saved(tiny_mixtral(), tmp_path / "base")
    model = with_lora(tiny_mixtral(), **settings)
    adapter = saved(model, tmp_path / "adapter")
    saved(model.merge_and_unload(), tmp_path / "merged")  # type: ignore[operator]
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("base", "merged"))
    name = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    assert not torch.allclose(before[name], after[name], atol=0.1)
    assert_close(written(base, adapter), after)
    half = {name: (before[name] + after[name]) / 2 for name in before}
    assert_close(written(base, adapter, elsewhere=lambda name: 0.5), half)
    pairs = paired(base, adapter).pairs
    assert_close(written(base, adapter, changes={pair.name: halved for pair in pairs}), half)


@pytest.mark.parametrize("on_disk", ["base", "tuned"])
def test_experts_of_a_checkpoint_one_by_one_on_one_side(tmp_path: Path, on_disk: str) -> None:
    base, tuned = tiny_mixtral(), moved(tiny_mixtral(), 0.1, 5)
    folders = {"base": saved(base, tmp_path / "base"), "tuned": saved(tuned, tmp_path / "tuned")}
    sides: tuple[Source, Source] = (folders["base"], tuned) if on_disk == "base" else (base, folders["tuned"])
    before, after = (
        (side.state_dict() for side in (base, tuned))
        if on_disk == "base"  # it has the names of the tuned side, which is in memory
        else (load_file(folder / "model.safetensors") for folder in folders.values())
    )
    assert_close(written(*sides), after)
    pairing = paired(*sides)
    assert pairing.matched[0].startswith(f"experts that {on_disk} stores one by one")
    pairs = pairing.pairs
    names = {pair.name for pair in pairs}
    assert "model.layers.0.mlp.experts.gate_up_proj[1]" in names
    half = {name: (before[name] + after[name]) / 2 for name in before}
    changes = {pair.name: halved for pair in pairs}
    assert_close(written(*sides, changes=changes, elsewhere=lambda name: 0.5), half)
    # The shares are asked for by the names of the base's own tensors.
    own = set(load_file(folders["base"] / "model.safetensors") if on_disk == "base" else base.state_dict())
    asked: set[str] = set()
    assert_close(written(*sides, elsewhere=lambda name: asked.add(name) or 0.5), half)  # type: ignore[func-returns-value]
    assert asked
    assert asked <= own


def test_a_changed_matrix_that_no_written_tensor_contains_is_refused() -> None:
    model = with_lora(tiny_mixtral())
    changes = {"model.layers.7.self_attn.q_proj.weight": halved}
    for sides in ((model,), (tiny_mixtral(0), tiny_mixtral(1))):
        with refused(r"changes 'model\.layers\.7\.self_attn\.q_proj\.weight', which"):
            planned_checkpoint(*open_sides(*sides), changes)


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["LayerNorm"]},
        {"bias": "all"},
        {"modules_to_save": ["LayerNorm", "pooler"]},
        {"lora_bias": True},
    ],
    ids=["norms", "biases", "norms and a matrix", "biases of B"],
)
def test_norms_and_biases_under_another_prefix(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The adapter of a classifier has ``bert.`` before every name, and the base has not."""
    model = tiny_bert(classes=3)
    base = saved(model.bert, tmp_path / "base")  # type: ignore[arg-type]
    before = load_file(base / "model.safetensors")
    tuned = with_lora(model, target_modules=["query"], **settings)
    adapter = saved(tuned, tmp_path / "adapter")
    merged = merged_weights(tuned)
    # The head that an untrained base lacks is neither the adapter's nor the base's.
    head = {"classifier.weight", "classifier.bias"}
    name = "encoder.layer.1.output.LayerNorm.bias"
    for changed, lost in ((merged, []), (merged | {f"bert.{name}": before[name] + 1}, [name])):
        found = intruders.verify(base, adapter, changed)
        assert set(found.counts) == {APPLIED}
        assert [other.name for other in found.others if other.name not in head] == lost
        assert {other.reason for other in found.others if other.name in head} <= {"missing in the base"}
    unchecked = [f"encoder.layer.{layer}.attention.self.query.bias" for layer in (0, 1)]
    assert [other.name for other in found.unchecked] == (unchecked if "lora_bias" in settings else [])
    if "lora_bias" in settings:
        return
    after = {name.removeprefix("bert."): tensor for name, tensor in merged.items()}
    # Its bias is trained with the others; its weight is not the adapter's.
    of_head = {"classifier.bias": after["classifier.bias"]} if settings.get("bias") == "all" else {}
    after = {name: after[name] for name in before}
    assert sum(not torch.equal(before[name], after[name]) for name in before if before[name].dim() == 1) > 5
    assert_close(written(base, adapter), after | of_head)
    half = {name: (before[name] + after[name]) / 2 for name in before}
    assert_close(written(base, adapter, elsewhere=lambda name: 0.5), half | of_head)


def test_a_norm_stored_in_full_under_a_prefix_of_its_own_is_refused(tmp_path: Path) -> None:
    adapter = saved(with_lora(modules_to_save=["norm"]), tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.norm.weight"
    tensors["base_model.model.text.model.norm.weight"] = tensors.pop(name)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with refused(r"in full, which may be 'model\.norm\.weight' of the base"):
        written(tiny_llama(), adapter)


def test_what_has_no_matrix_and_is_stored_in_full_is_written(tmp_path: Path) -> None:
    """A token that stands for a class, and biases of which there is one for every expert."""
    torch.manual_seed(0)
    base = {f"layers.{layer}.q_proj.weight": torch.randn(8, 8) for layer in (0, 1)}
    base |= {
        "embeddings.cls_token": torch.randn(1, 1, 8),
        "layers.0.experts.down_proj_bias": torch.randn(4, 8),
    }
    stored = {name: tensor + 1 for name, tensor in base.items() if "q_proj" not in name}
    factors = lora({f"layers.{layer}.q_proj": (torch.randn(8, 2), torch.randn(2, 8)) for layer in (0, 1)})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = factors | {f"base_model.model.{name}": tensor for name, tensor in stored.items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    LoraConfig(
        r=2, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["embeddings", "experts"]
    ).save_pretrained(adapter)
    found = written(base, adapter)
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())
    assert intruders.verify(base, adapter, found).exit_status() == 0
    without = {name: tensor for name, tensor in found.items() if name != "embeddings.cls_token"}
    assert intruders.verify(base, adapter, without).exit_status() == 1


T = ["q_proj", "v_proj", "down_proj"]
METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "ia3": config_of("IA3", target_modules=T, feedforward_modules=["down_proj"]),
    "road": config_of("Road", group_size=8, target_modules=T),
    "glora": config_of("Glora", r=2, target_modules=T),
    "adamss": config_of("Adamss", r=4, num_subspaces=2, subspace_rank=1, target_modules=T),
    "ia3 on Conv1D": config_of(
        "IA3", target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True
    ),
}


def base_for(method: str) -> nn.Module:
    model = tiny_gpt2() if "Conv1D" in method else tiny_llama(attention_bias=True, mlp_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data = torch.linspace(-1, 1, parameter.numel())
    return model


def biases(state: dict[str, Tensor], method: str) -> set[str]:
    """Those of the layers that the method changes; IA3 scales the input of feed-forward layers, so not their bias."""
    ends = ("c_attn.bias",) if "Conv1D" in method else ("q_proj.bias", "v_proj.bias", "down_proj.bias")
    return {name for name in state if name.endswith(ends[:2] if method == "ia3" else ends)}


def base_and_adapter(method: str, folder: Path, seed: int = 1) -> tuple[Path, Path]:
    model = peft.get_peft_model(base_for(method), METHODS[method]())
    move(model, seed=seed, size=0.2)
    return saved(base_for(method), folder / "base"), saved(model, folder / f"adapter{seed}")


def merge(method: str, adapter: Path) -> dict[str, Tensor]:
    return merged_weights(peft.PeftModel.from_pretrained(base_for(method), adapter))


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_has_the_biases_of_pefts_merge_and_verify_lists_them(
    method: str, tmp_path: Path
) -> None:
    base, adapter = base_and_adapter(method, tmp_path)
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
    result = intruders.verify(base, adapter, truth)
    assert result.exit_status() == 0
    assert {tensor.name for tensor in result.unchecked} == changed
    pairing = paired(base, adapter)
    assert len(loaded(pairing)) == (4 if "Conv1D" in method else 6)
    assert set(pairing.biases) == changed
    assert f"changes {len(changed)} biases with its matrices" in pairing.matched[0]


def test_doses_a_new_adapter_and_a_sum_could_not_have_the_biases_and_are_refused(tmp_path: Path) -> None:
    base, adapter = base_and_adapter("ia3", tmp_path)
    with refused(r"also changes .*bias.*, which no dose acts on", SettingError):
        require_only_matrices(open_sides(base, adapter))
    with refused(r"bias', which is not the weight of a linear module"):
        intruders.mitigate(base, adapter, scale=0.5, out=tmp_path / "out", form="adapter", rank=4)
    _, other = base_and_adapter("ia3", tmp_path, seed=2)
    with refused(r"sum of adapters that change '.*q_proj\.bias'; merge it first"):
        intruders.write_at_scale(base, f"{adapter}+{other}", 1.0, tmp_path / "out", form="checkpoint")


def test_a_base_without_biases_has_none_to_tell_of(tmp_path: Path) -> None:
    pairing = paired(tiny_llama(), saved(with_adapter(METHODS["road"]()), tmp_path))
    assert not pairing.biases
    assert not any("biases" in note for note in pairing.matched)


TOKENS = torch.tensor([[0, 5, 9, 12, 2]])
SMALL = {**SIZES, "max_position_embeddings": 32}


@pytest.fixture(
    params=[RobertaForMaskedLM, RobertaModel], ids=["base with its own head", "base without a head"]
)
def classifier(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and the adapter of a classifier on it, as the recipes of PEFT train one."""
    torch.manual_seed(0)
    base = saved(request.param(RobertaConfig(**SMALL)), tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    tuned = with_lora(model, task_type="SEQ_CLS", target_modules=["query", "value"])
    return base, saved(tuned, tmp_path / "adapter")


def peft_model(base: Path, adapter: Path) -> PeftModel:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    return PeftModel.from_pretrained(model, adapter).eval()


def test_the_written_checkpoint_classifies_as_peft_does_with_the_new_head_at_every_scale(
    classifier: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = classifier
    for scale in (1.0, 0.5):
        intruders.write_at_scale(base, adapter, scale, tmp_path / str(scale), form="checkpoint")
    written = AutoModelForSequenceClassification.from_pretrained(tmp_path / "1.0", num_labels=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(written(TOKENS).logits, peft_model(base, adapter)(TOKENS).logits)
    half = load_file(tmp_path / "0.5" / "model.safetensors")
    truth = peft_model(base, adapter).merge_and_unload().state_dict()
    head = {name for name in truth if name.startswith("classifier")}
    assert len(head) == 4
    assert all(torch.equal(half[name], truth[name]) for name in head)


def test_a_sum_of_two_heads_is_refused(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = classifier
    with refused(r"sum of adapters that store 'classifier.*merge it first"):
        intruders.write_at_scale(
            base, f"{adapter}@0.5+{adapter}@0.5", 0.5, tmp_path / "written", form="checkpoint"
        )
    assert not os.path.lexists(tmp_path / "written")


def test_a_merge_needs_the_new_head_and_not_the_old(classifier: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = classifier
    merged = saved(peft_model(base, adapter).merge_and_unload(), tmp_path / "merged")
    right = intruders.verify(base, adapter, merged)
    assert right.exit_status() == 0
    old = {name for name in load_file(base / "model.safetensors") if name.startswith("lm_head")}
    assert {other.name for other in right.unchecked} >= old

    tensors = load_file(merged / "model.safetensors")
    name = "classifier.out_proj.weight"
    for changed, reason in [
        ({name: tensors[name] * 2}, "other numbers than the adapter saved"),
        ({name: tensors[name][:2].clone()}, "other shape: (3, 16) and (2, 16)"),
        (None, "missing in the merged model"),
    ]:
        kept = {other: tensor for other, tensor in tensors.items() if changed is not None or other != name}
        save_file(kept | (changed or {}), merged / "model.safetensors", metadata={"format": "pt"})
        wrong = intruders.verify(base, adapter, merged)
        assert [(other.name, other.reason) for other in wrong.others] == [(name, reason)]
        assert wrong.exit_status() == 1


def test_a_head_that_is_the_embedding_is_not_one_that_the_adapter_brings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = saved(BertForMaskedLM(BertConfig(**SMALL)), tmp_path / "base")
    model = AutoModelForMaskedLM.from_pretrained(base)
    tuned = with_lora(model, target_modules=["query", "value"])
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("cls.predictions.decoder" in name for name in stored)
    merged = saved(tuned.merge_and_unload(), tmp_path / "merged")
    assert intruders.verify(base, tmp_path / "adapter", merged).exit_status() == 0
    intruders.write_at_scale(base, tmp_path / "adapter", 1.0, tmp_path / "written", form="checkpoint")
    assert load_file(tmp_path / "written" / "model.safetensors").keys() == (
        load_file(base / "model.safetensors").keys()
    )
