"""Names under other prefixes, and names that must not be taken for each other."""

from __future__ import annotations

import pytest

from intruders.checkpoints.stored.matching import match_names

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
    assert sum(rule.tensors for rule in matching.rules) == len(
        [a for a, b in zip(first, second, strict=True) if a != b]
    )


def test_head_dropped_and_prefix_added() -> None:
    tuned = {f"model.{name}": shape for name, shape in BASE.items() if name != "lm_head.weight"}
    matching = match_names(BASE, tuned)
    assert "lm_head.weight" not in matching.tuned_of
    assert len(matching.tuned_of) == len(BASE) - 1


def test_no_layer_is_taken_for_another() -> None:
    tuned = {name.replace("layers.0", "layers.7"): shape for name, shape in LAYERS.items()}
    assert all(a == b for a, b in match_names(LAYERS, tuned).tuned_of.items())


def test_two_towers_of_one_shape_are_not_guessed_between() -> None:
    base = {f"{tower}.{name}": shape for tower in ("image", "text") for name, shape in LAYERS.items()}
    assert match_names(base, LAYERS).tuned_of == {}


def test_two_towers_whose_prefixes_compete_for_nothing_are_both_matched() -> None:
    """InternVL: each tower has a prefix of its own, and both have equally many matrices."""
    parts = {
        "vision_tower.encoder.": ("model.vision_tower.encoder.", 12),
        "language_model.model.": ("model.language_model.", 8),
    }
    names = {
        f"{before}layers.{index}.{part}.weight": (f"{after}layers.{index}.{part}.weight", (size, size))
        for before, (after, size) in parts.items()
        for index in range(3)
        for part in ("q_proj", "v_proj")
    }
    base = {name: shape for name, (_, shape) in names.items()}
    tuned = dict(names.values())
    assert match_names(base, tuned).tuned_of == {name: other for name, (other, _) in names.items()}


def test_encoder_is_not_taken_for_decoder() -> None:
    encoder = {f"encoder.{name}": shape for name, shape in LAYERS.items()}
    decoder = {f"decoder.{name}": shape for name, shape in LAYERS.items()}
    matching = match_names(
        encoder | decoder, {f"model.{name}": shape for name, shape in (encoder | decoder).items()}
    )
    assert all(b == f"model.{a}" for a, b in matching.tuned_of.items())
    assert len(matching.tuned_of) == 2 * len(LAYERS)


def test_other_architectures_share_nothing() -> None:
    other = {f"transformer.h.{index}.attn.c_attn.weight": (8, 24) for index in range(3)}
    assert match_names(BASE, other).tuned_of == {}


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
