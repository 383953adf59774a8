"""Merged checkpoints against PEFT's own merges, where base and tuned side have other names for the same tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import intruders
from intruders.checkpoints.opening.open import Source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.writing.merged import planned_checkpoint
from intruders.errors import CheckpointError
from intruders.linalg.pair import Pair
from tests.checkpoints.models import (
    merged_weights,
    moved,
    randomize_adapter,
    saved,
    tiny_bert,
    tiny_llama,
    tiny_mixtral,
)

STACKS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def written(base: Source, tuned: Source, **settings: Any) -> dict[str, Tensor]:
    plan = planned_checkpoint(*open_sides(base, tuned), settings.pop("changes", {}), **settings)
    assert all(tuple(planned.read().shape) == planned.shape for planned in plan)
    return {planned.name: planned.read().to(planned.dtype) for planned in plan}


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
    model = get_peft_model(tiny_mixtral(), LoraConfig(r=2, target_modules=["q_proj"], **settings))
    randomize_adapter(model)
    adapter = saved(model, tmp_path / "adapter")
    saved(model.merge_and_unload(), tmp_path / "merged")  # type: ignore[operator]
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("base", "merged"))
    name = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    assert not torch.allclose(before[name], after[name], atol=0.1)
    assert_close(written(base, adapter), after)
    half = {name: (before[name] + after[name]) / 2 for name in before}
    assert_close(written(base, adapter, elsewhere=lambda name: 0.5), half)
    pairs = pair_sides(*open_sides(base, adapter)).pairs
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
    pairs = pair_sides(*open_sides(*sides)).pairs
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
    model = get_peft_model(tiny_mixtral(), LoraConfig(r=2, target_modules=["q_proj"]))
    changes = {"model.layers.7.self_attn.q_proj.weight": halved}
    for sides in ((model,), (tiny_mixtral(0), tiny_mixtral(1))):
        with pytest.raises(
            CheckpointError, match=r"changes 'model\.layers\.7\.self_attn\.q_proj\.weight', which"
        ):
            planned_checkpoint(*open_sides(*sides), changes)


@pytest.mark.parametrize(
    "settings",
    [{"modules_to_save": ["LayerNorm"]}, {"bias": "all"}, {"modules_to_save": ["LayerNorm", "pooler"]}],
    ids=["norms", "biases", "norms and a matrix"],
)
def test_norms_and_biases_stored_in_full_under_another_prefix(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The adapter of a classifier has ``bert.`` before every name, and the base has not."""
    model = tiny_bert(classes=3)
    base = saved(model.bert, tmp_path / "base")  # type: ignore[arg-type]
    before = load_file(base / "model.safetensors")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], **settings))
    randomize_adapter(tuned)
    adapter = saved(tuned, tmp_path / "adapter")
    after = {name.removeprefix("bert."): tensor for name, tensor in merged_weights(tuned).items()}
    # Its bias is trained with the others; its weight is not the adapter's.
    of_head = {"classifier.bias": after["classifier.bias"]} if settings.get("bias") == "all" else {}
    after = {name: after[name] for name in before}
    assert sum(not torch.equal(before[name], after[name]) for name in before if before[name].dim() == 1) > 5
    assert_close(written(base, adapter), after | of_head)
    half = {name: (before[name] + after[name]) / 2 for name in before}
    assert_close(written(base, adapter, elsewhere=lambda name: 0.5), half | of_head)


def test_a_norm_stored_in_full_under_a_prefix_of_its_own_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]))
    adapter = saved(model, tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.norm.weight"
    tensors["base_model.model.text.model.norm.weight"] = tensors.pop(name)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"in full, which may be 'model\.norm\.weight' of the base"):
        written(tiny_llama(), adapter)


def test_what_has_no_matrix_and_is_stored_in_full_is_written(tmp_path: Path) -> None:
    """A token that stands for a class, and biases of which there is one for every expert."""
    shapes = {
        "layers.0.q_proj.weight": (8, 8),
        "layers.1.q_proj.weight": (8, 8),
        "embeddings.cls_token": (1, 1, 8),
    }
    shapes["layers.0.experts.down_proj_bias"] = (4, 8)
    torch.manual_seed(0)
    base = {name: torch.randn(shape) for name, shape in shapes.items()}
    stored = {name: tensor + 1 for name, tensor in base.items() if "q_proj" not in name}
    factors = {
        f"layers.{layer}.q_proj.lora_{side}.weight": torch.randn(shape)
        for layer in (0, 1)
        for side, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    tensors = {f"base_model.model.{name}": tensor for name, tensor in (factors | stored).items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    LoraConfig(
        r=2, lora_alpha=2, target_modules=["q_proj"], modules_to_save=["embeddings", "experts"]
    ).save_pretrained(adapter)
    found = written(base, adapter)
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())
    assert intruders.verify(base, adapter, found).exit_status() == 0
    without = {name: tensor for name, tensor in found.items() if name != "embeddings.cls_token"}
    assert intruders.verify(base, adapter, without).exit_status() == 1
