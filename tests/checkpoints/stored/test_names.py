"""The place of a matrix is read from its name, whatever the architecture."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intruders.checkpoints.stored.names import ModulePath, module_paths, natural_order

LLAMA = [
    f"model.layers.{i}.{kind}.weight" for i in range(2) for kind in ("self_attn.q_proj", "mlp.down_proj")
]
BERT = [
    f"encoder.layer.3.{kind}.weight"
    for kind in ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
]
GPT2 = [
    f"transformer.h.11.{kind}.weight" for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]
T5 = [
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "decoder.block.0.layer.0.SelfAttention.q.weight",
    "decoder.block.0.layer.1.EncDecAttention.q.weight",
]
EXPERTS = [
    "model.layers.5.mlp.experts.0.up_proj.weight",
    "model.layers.5.mlp.experts.17.up_proj.weight",
    "model.layers.5.mlp.shared_expert.up_proj.weight",
]


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (LLAMA, ["q_proj", "down_proj"] * 2),
        (BERT, ["query", "attention.output.dense", "intermediate.dense", "output.dense"]),
        (GPT2, ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]),
        (T5, ["SelfAttention.q", "SelfAttention.q", "EncDecAttention.q"]),
        (EXPERTS, ["experts.up_proj", "experts.up_proj", "shared_expert.up_proj"]),
        (["model.layers.0.mlp.experts.gate_up_proj[3]"], ["gate_up_proj"]),
        (["lm_head.weight", "model.embed_tokens.weight"], ["lm_head", "embed_tokens"]),
        (["0.weight", "weight", "layers.2"], ["weight", "weight", "layers"]),
    ],
)
def test_kinds_are_as_short_as_they_can_be(names: list[str], kinds: list[str]) -> None:
    assert [place.kind for place in module_paths(names)] == kinds


def test_layers_and_stacks() -> None:
    assert module_paths(LLAMA)[2] == ModulePath("model.layers", 1, "q_proj")
    assert [place.stack for place in module_paths(T5)] == ["encoder.block", "decoder.block", "decoder.block"]
    assert module_paths(EXPERTS)[1].layer == 5
    assert module_paths(["lm_head.weight"]) == [ModulePath("", None, "lm_head")]


@given(st.lists(st.text()))
@settings(max_examples=50)
def test_any_name_has_a_place_and_a_kind(names: list[str]) -> None:
    found = module_paths(names)
    assert len(found) == len(names)
    assert all(place.kind for place in found)


def test_numbers_in_names_are_in_their_order_and_no_name_is_refused() -> None:
    """Superscripts and circled digits have no decimal value; of equal numbers the text decides."""
    ordered = ["a", "s-01", "s-1", "s-9", "s-9b", "s-10", "s-\u0661\u0662", "s-\u00b2", "s-\u2460x"]
    backwards = ordered[::-1]
    assert sorted(backwards, key=natural_order) == ordered
