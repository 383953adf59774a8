"""Kinds and order of names, and which name of one side is which of the other."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from intruders.checkpoints.stored.names import (
    ModulePath,
    is_embedding_or_head,
    looks_up_tokens,
    match_names,
    module_paths,
    natural_order,
)
from intruders.checkpoints.stored.renamed import OF_EVERY_MODEL, OF_FAMILIES, Renames, in_memory
from tests.checkpoints.models import SIZES, of_class

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

SMALL = SIZES | {"num_hidden_layers": 1, "max_position_embeddings": 16}


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


OF_T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
OF_GPT1 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
OF_CLIP = {"text_config": SMALL, "vision_config": SMALL | {"image_size": 8}}
RELATIVE = SMALL | {"relative_attention": True, "position_buckets": 4}
BIASES = [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias" for side in ("encoder", "decoder")]
# By class of model: settings, the names that end in what looks up tokens under each prefix, and heads.
TABLES: dict[str, tuple[dict[str, Any], dict[str, list[str]], set[str]]] = {
    "CLIP": (
        OF_CLIP,
        {
            "text_model.embeddings.": ["token_embedding", "position_embedding"],
            "vision_model.embeddings.": ["position_embedding"],
        },
        set(),
    ),
    "DebertaV2": (
        RELATIVE,
        {
            "deberta.embeddings.": ["word_embeddings", "position_embeddings"],
            "deberta.encoder.": ["rel_embeddings"],
        },
        {"cls.predictions.decoder"},
    ),
    "OpenAIGPT": (OF_GPT1, {"transformer.": ["tokens_embed", "positions_embed"]}, {"lm_head"}),
    "T5": (OF_T5, {"": ["shared", "encoder.embed_tokens", "decoder.embed_tokens", *BIASES]}, {"lm_head"}),
    "Roberta": (
        SMALL,
        {"roberta.embeddings.": ["word_embeddings", "position_embeddings", "token_type_embeddings"]},
        {"lm_head.decoder"},
    ),
    "ModernBert": (SMALL | {"pad_token_id": 0}, {"model.embeddings.": ["tok_embeddings"]}, {"decoder"}),
}
HEADS = {"CLIP": "Model", "OpenAIGPT": "LMHeadModel", "T5": "ForConditionalGeneration"}


@pytest.mark.parametrize("kind", TABLES)
def test_what_looks_up_tokens_is_what_transformers_makes_an_embedding(kind: str) -> None:
    sizes, by_prefix, heads = TABLES[kind]
    model = of_class(kind + HEADS.get(kind, "ForMaskedLM"), f"{kind}Config", **sizes)
    layers = {
        name: type(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.Linear)
    }
    tables = {f"{prefix}{end}" for prefix, ends in by_prefix.items() for end in ends}
    assert {name for name, layer in layers.items() if layer is nn.Embedding} == tables
    assert {name for name in layers if looks_up_tokens(f"{name}.weight")} == tables
    assert {name for name in layers if is_embedding_or_head(f"{name}.weight")} == tables | heads


LAYERS = {
    f"model.layers.{index}.{part}.weight": shape
    for index in range(3)
    for part, shape in (("self_attn.q_proj", (8, 8)), ("mlp.up_proj", (16, 8)), ("norm", (8,)))
}
BASE = {"model.embed_tokens.weight": (40, 8), **LAYERS, "model.norm.weight": (8,), "lm_head.weight": (40, 8)}


def renamed(old: str, new: str) -> dict[str, tuple[int, ...]]:
    return {
        name.replace(old, new, 1) if name.startswith(old) else name: shape for name, shape in BASE.items()
    }


WRAPPED = {
    "PeftModel": {f"base_model.model.{name}": shape for name, shape in BASE.items()},
    "DataParallel": {f"module.{name}": shape for name, shape in BASE.items()},
    "torch.compile": {f"_orig_mod.{name}": shape for name, shape in BASE.items()},
    "both": {f"module._orig_mod.{name}": shape for name, shape in BASE.items()},
    "compiled layer by layer": renamed("model.layers.1.", "model.layers.1._orig_mod."),
    "checkpointed activations": {
        name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): shape for name, shape in BASE.items()
    },
    "vision and language": {f"language_model.{name}": shape for name, shape in BASE.items()},
    "vision and language, newer": renamed("model.", "model.language_model."),
    "the bare model": {name.removeprefix("model."): shape for name, shape in BASE.items()},
    "another library": renamed("model.", "transformer."),
}


@pytest.mark.parametrize("tuned", WRAPPED.values(), ids=WRAPPED.keys())
@pytest.mark.parametrize("turned", [False, True])
def test_wrappers(tuned: dict[str, tuple[int, ...]], turned: bool) -> None:
    matching = match_names(tuned, BASE) if turned else match_names(BASE, tuned)
    assert len(matching.tuned_of) == len(BASE)
    first, second = (list(tuned), list(BASE)) if turned else (list(BASE), list(tuned))
    assert matching.tuned_of == dict(zip(first, second, strict=True))
    assert matching.base_of == dict(zip(second, first, strict=True))
    assert sum(matching.rules.values()) == len([a for a, b in zip(first, second, strict=True) if a != b])


def test_no_layer_is_taken_for_another() -> None:
    tuned = {name.replace("layers.0", "layers.7"): shape for name, shape in LAYERS.items()}
    assert all(a == b for a, b in match_names(LAYERS, tuned).tuned_of.items())


def test_two_towers_of_one_shape_are_not_guessed_between() -> None:
    base = {f"{tower}.{name}": shape for tower in ("image", "text") for name, shape in LAYERS.items()}
    assert match_names(base, LAYERS).tuned_of == {}


def test_encoder_is_not_taken_for_decoder() -> None:
    encoder = {f"encoder.{name}": shape for name, shape in LAYERS.items()}
    decoder = {f"decoder.{name}": shape for name, shape in LAYERS.items()}
    matching = match_names(
        encoder | decoder, {f"model.{name}": shape for name, shape in (encoder | decoder).items()}
    )
    assert all(b == f"model.{a}" for a, b in matching.tuned_of.items())
    assert len(matching.tuned_of) == 2 * len(LAYERS)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_a_head_with_another_name_in_memory_is_matched_under_a_wrapper(wrapper: str) -> None:
    base = {"gpt_neox.embed_in.weight": (64, 16), "embed_out.weight": (64, 16)}
    for layer in range(3):
        base[f"gpt_neox.layers.{layer}.attention.query_key_value.weight"] = (48, 16)
        base[f"gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight"] = (64, 16)
    wrapped = {f"{wrapper}{name}": shape for name, shape in base.items()}
    assert match_names(base, wrapped).tuned_of == {name: f"{wrapper}{name}" for name in base}
    assert match_names(wrapped, base).base_of == {name: f"{wrapper}{name}" for name in base}


def test_two_single_tensors_of_unrelated_models_are_not_matched() -> None:
    base = {"a.x.weight": (2, 2), "b.x.weight": (3, 3)}
    assert match_names(base, {"c.x.weight": (2, 2), "d.x.weight": (3, 3)}).tuned_of == {}


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
