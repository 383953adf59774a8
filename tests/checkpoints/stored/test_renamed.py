"""Names in files beside those in memory: transformers' own table, and the values of what it loads, are the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.names_of_base import with_experts_as
from intruders.checkpoints.stored.names import match_names
from intruders.checkpoints.stored.renamed import OF_EVERY_MODEL, OF_FAMILIES, Renames, in_memory
from tests.checkpoints.renamed_families import FAMILIES


def of_transformers(family: str) -> dict[str, str] | None:
    """The substitutions of one name part each, as the table here writes them."""
    mapping = pytest.importorskip("transformers.conversion_mapping").get_checkpoint_conversion_mapping(family)
    if mapping is None:
        return None
    return {
        written(transform._original_source_patterns[0]): written(transform._original_target_patterns[0])
        for transform in mapping
        if type(transform).__name__ == "WeightRenaming" and len(transform._original_source_patterns) == 1
    }


def written(pattern: str) -> str:
    return re.sub(r"\\1", "#", pattern.replace(r"(\d+)", "#")).replace("\\", "")


@pytest.mark.parametrize("family", [*OF_FAMILIES, "legacy", "GPTNeoXForCausalLM"])
def test_the_table_is_that_of_transformers(family: str) -> None:
    ours: Renames = OF_FAMILIES.get(family, OF_EVERY_MODEL)
    theirs = of_transformers(family)
    if theirs is None:
        pytest.skip(f"this version of transformers has no names of its own for {family}")
    both = {part: other for part, other in theirs.items() if part in ours}
    assert both
    assert both == {part: ours[part] for part in both}
    if family in OF_FAMILIES:
        assert list(both) == [
            part for part in ours if part in both
        ]  # an earlier one may make a later one's part


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("turned", [False, True], ids=["file first", "memory first"])
def test_a_file_matches_the_model_that_was_loaded_of_it(family: str, turned: bool, tmp_path: Path) -> None:
    """Every tensor of the file has its counterpart, which has the same numbers as no other."""
    torch.manual_seed(0)
    model: Any = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    state = dict(model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    file = with_experts_as(shapes, open_checkpoint(str(tmp_path)))
    matching = match_names(shapes, file.shapes()) if turned else match_names(file.shapes(), shapes)
    name_of = matching.base_of if turned else matching.tuned_of
    assert sorted(name_of) == sorted(file.names())
    for name, key in name_of.items():
        assert torch.equal(file.read(name), state[key]), (name, key)


def test_a_model_that_has_both_names_keeps_them_apart() -> None:
    """Of two tensors of one model neither is taken for the other."""
    base = {f"layers.{i}.{name}.weight": (8, 8) for i in range(3) for name in ("mlp.gate", "mlp.router", "q")}
    tuned = {name.replace(".mlp.gate.", ".mlp.other."): shape for name, shape in base.items()}
    assert all(name == other for name, other in match_names(base, tuned).tuned_of.items())
    assert in_memory(base, OF_FAMILIES["phimoe"]) == {name: name for name in base}
    both = {"embed_out.weight": (40, 8), "lm_head.weight": (40, 8), "q.weight": (8, 8)}
    assert match_names(both, {"lm_head.weight": (40, 8), "q.weight": (8, 8)}).tuned_of == {
        "lm_head.weight": "lm_head.weight",
        "q.weight": "q.weight",
    }


def test_a_family_counts_only_where_shapes_agree() -> None:
    base = {f"h.{i}.block_sparse_moe.{name}.weight": (8, 8) for i in range(2) for name in ("gate", "q")}
    tuned = {f"h.{i}.mlp.{name}.weight": (9, 9) for i in range(2) for name in ("router", "k")}
    assert match_names(base, tuned).tuned_of == {}


def test_names_of_a_file_under_another_prefix() -> None:
    """A bare model's file and an adapter of its class with a head."""
    file = {
        f"encoder.layer.{i}.attention.attention.{name}.weight": (8, 8)
        for i in range(3)
        for name in ("query", "key")
    }
    adapter = {
        f"vit.layers.{i}.attention.{name}.weight": (8, 8) for i in range(3) for name in ("q_proj", "k_proj")
    }
    expected = dict(zip(sorted(file), sorted(adapter), strict=True))
    assert match_names(file, adapter).tuned_of == expected
    assert match_names(adapter, file).base_of == expected
