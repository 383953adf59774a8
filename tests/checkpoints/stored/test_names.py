"""The place of a matrix is read from its name, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from intruders.checkpoints.stored.names import (
    ModulePath,
    is_embedding_or_head,
    looks_up_tokens,
    module_paths,
    natural_order,
)

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

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}


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


@pytest.mark.parametrize(
    ("make", "embeddings", "heads"),
    [
        (
            lambda t: t.CLIPModel(t.CLIPConfig(text_config=SMALL, vision_config=SMALL | {"image_size": 8})),
            {
                "text_model.embeddings.token_embedding",
                "text_model.embeddings.position_embedding",
                "vision_model.embeddings.position_embedding",
            },
            set(),
        ),
        (
            lambda t: t.DebertaV2ForMaskedLM(
                t.DebertaV2Config(**SMALL, relative_attention=True, position_buckets=4)
            ),
            {
                "deberta.embeddings.word_embeddings",
                "deberta.embeddings.position_embeddings",
                "deberta.encoder.rel_embeddings",
            },
            {"cls.predictions.decoder"},
        ),
        (
            lambda t: t.OpenAIGPTLMHeadModel(
                t.OpenAIGPTConfig(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=8)
            ),
            {"transformer.tokens_embed", "transformer.positions_embed"},
            {"lm_head"},
        ),
        (
            lambda t: t.T5ForConditionalGeneration(
                t.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
            ),
            {
                "shared",
                "encoder.embed_tokens",
                "decoder.embed_tokens",
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
                "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            },
            {"lm_head"},
        ),
        (
            lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**SMALL)),
            {f"roberta.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")},
            {"lm_head.decoder"},
        ),
        (
            lambda t: t.ModernBertForMaskedLM(t.ModernBertConfig(**SMALL, pad_token_id=0)),
            {"model.embeddings.tok_embeddings"},
            {"decoder"},
        ),
    ],
    ids=["clip", "deberta-v2", "gpt-1", "t5", "roberta", "modernbert"],
)
def test_what_looks_up_tokens_is_what_transformers_makes_an_embedding(
    make: Callable[[Any], nn.Module], embeddings: set[str], heads: set[str]
) -> None:
    layers = {
        name: type(module)
        for name, module in make(transformers).named_modules()
        if isinstance(module, nn.Embedding | nn.Linear)
    }
    assert {name for name, kind in layers.items() if kind is nn.Embedding} == embeddings
    assert {name for name in layers if looks_up_tokens(f"{name}.weight")} == embeddings
    assert {name for name in layers if is_embedding_or_head(f"{name}.weight")} == embeddings | heads
