"""Merges that went wrong in every way that people know: verify says which, and never calls one of them right."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import intruders
from intruders.checkpoints.merges.verdict import (
    ANOTHER_SCALE,
    APPLIED,
    NOT_APPLIED,
    NOT_PROVED,
    ON_OTHER_WEIGHTS,
    OTHER_WEIGHTS,
    TOO_SMALL,
    TRANSPOSED,
)
from intruders.errors import NonFiniteError, PairingError
from tests.checkpoints.gguf_files import write_llama_gguf
from tests.checkpoints.merged_models import (
    QUERY,
    Models,
    adapted,
    lora,
    save_both,
    verify,
    wide_llama,
    with_delta,
)
from tests.checkpoints.models import refused, tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), lora(), "bfloat16")


@pytest.mark.parametrize(
    ("factor", "verdict", "words"),
    [
        (0.0, NOT_APPLIED, ""),
        (4 / 6, ANOTHER_SCALE, "the adapter's own scale of 1.5 was left out"),
        (1.5, ANOTHER_SCALE, "the adapter's own scale of 1.5 was counted twice"),
        (2.0, ANOTHER_SCALE, "applied twice"),
        (-1.0, ANOTHER_SCALE, "subtracted instead of added"),
        (1.01, ANOTHER_SCALE, ""),
        (0.25, ANOTHER_SCALE, ""),
    ],
)
def test_wrong_scales(models: Models, factor: float, verdict: str, words: str) -> None:
    found = models.verify(with_delta(models, lambda update: factor * update))
    assert found.counts == {verdict: 4}
    assert found.exit_status() == found.exit_status(allow_other=True) == 1
    for matrix in found.matrices:
        assert matrix.found.words == words
        low, high = matrix.found.scale or (0, 0)
        assert low <= factor <= high
        assert high - low < 5e-4


def test_a_scale_that_rounding_the_update_explains_as_well_is_not_proved(models: Models) -> None:
    found = models.verify(with_delta(models, lambda update: 1.001 * update))
    assert found.counts == {NOT_PROVED: 4}
    assert found.exit_status() == 3
    for matrix in found.matrices:
        low, high = matrix.found.scale or (0, 0)
        assert low < 1 < 1.001 <= high
        assert matrix.found.words == "scale 1 fits, and with less rounding another scale as well"
        assert (matrix.found.precision or "").startswith("update rounded to bfloat16")


def test_a_merge_that_was_made_twice(models: Models) -> None:
    """PEFT's own, rounded to bfloat16 after each."""
    once = with_delta(models, lambda update: update)
    twice = {name: once[name] + (once[name] - models.base[name]) for name in once}
    found = models.verify(twice)
    assert found.counts == {ANOTHER_SCALE: 4}
    assert {matrix.found.words for matrix in found.matrices} == {"applied twice"}


def half_of_the_rank(update: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    return u[:, :2] * s[:2] @ v[:2]


def drawn_like(update: Tensor) -> Tensor:
    return update.std() * torch.randn(update.shape, generator=torch.Generator().manual_seed(9))


def transposed_where_square(update: Tensor) -> Tensor:
    return update.T if update.shape[0] == update.shape[1] else update


def of_an_earlier_checkpoint(update: Tensor) -> Tensor:
    """A thousandth of the update away from it."""
    return update + 1e-3 * drawn_like(update)


@pytest.mark.parametrize(
    ("other", "counts", "words"),
    [
        (transposed_where_square, {APPLIED: 2, TRANSPOSED: 2}, "the transposed update was added"),
        (half_of_the_rank, {OTHER_WEIGHTS: 4}, "contains the update at scale 0."),
        (drawn_like, {OTHER_WEIGHTS: 4}, "the difference does not contain the update"),
        (of_an_earlier_checkpoint, {ON_OTHER_WEIGHTS: 4}, "added to weights other than the base's"),
    ],
)
def test_another_update(
    models: Models, other: Callable[[Tensor], Tensor], counts: dict[str, int], words: str
) -> None:
    found = models.verify(with_delta(models, other))
    assert found.counts == counts
    assert found.exit_status() == 1
    assert all(words in one.found.words for one in found.matrices if one.found.verdict != APPLIED)


def nf4(weight: Tensor) -> Tensor:
    """What bitsandbytes restores of a weight that it stored in four bits."""
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(weight.float(), quant_type="nf4")
    return bitsandbytes.functional.dequantize_4bit(packed, state).to(weight.dtype)


def test_a_merge_into_the_dequantized_base_of_qlora(tmp_path: Path) -> None:
    model = adapted(lora(target_modules=["q_proj"]), "bfloat16", hidden_size=256, num_hidden_layers=1)
    save_both(tmp_path, model, "bfloat16", hidden_size=256, num_hidden_layers=1)
    for name, module in model.named_modules():
        if name.endswith("q_proj.base_layer"):
            module.weight.data = nf4(module.weight.data)
    found = verify(tmp_path, model.merge_and_unload())
    (matrix,) = found.matrices
    assert matrix.found.verdict == ON_OTHER_WEIGHTS
    assert matrix.found.estimate == pytest.approx(1, abs=5 * (matrix.found.error or 0))
    assert matrix.found.rest == pytest.approx(0.09, abs=0.02)
    assert found.exit_status() == 1


def test_a_few_numbers_that_were_changed(models: Models) -> None:
    changed = {name: tensor.clone() for name, tensor in models.merged.items()}
    changed[QUERY][3, :5] += 0.01
    found = models.verify(changed)
    assert found.counts == {APPLIED: 3, ON_OTHER_WEIGHTS: 1}
    assert [one.found.outside for one in found.matrices if one.found.verdict == ON_OTHER_WEIGHTS] == [5]


def test_numbers_that_are_not_finite(models: Models) -> None:
    changed = {name: tensor.clone() for name, tensor in models.merged.items()}
    changed[QUERY][3, 5] = torch.nan
    assert models.verify(changed).counts == {APPLIED: 3, OTHER_WEIGHTS: 1}
    broken = {name: tensor.clone() for name, tensor in models.base.items()}
    broken[QUERY][3, 5] = torch.inf
    with refused(r"'model.layers.0.self_attn.q_proj.weight' contains NaN or inf", NonFiniteError):
        intruders.verify(broken, models.folder / "adapter", models.merged)


def test_what_the_merged_model_changed_besides(models: Models) -> None:
    changed = {name: tensor.clone() for name, tensor in models.merged.items()}
    changed["model.norm.weight"] *= 1.5
    changed["model.layers.1.self_attn.k_proj.weight"] *= 1.5
    del changed["model.layers.0.mlp.up_proj.weight"]
    del changed["model.layers.0.input_layernorm.weight"]
    changed["model.extra.weight"] = torch.ones(2, 2)
    found = models.verify(changed)
    assert {(one.name, one.reason) for one in found.others} == {
        ("model.norm.weight", "other numbers"),
        ("model.layers.1.self_attn.k_proj.weight", "other numbers"),
        ("model.layers.0.mlp.up_proj.weight", "missing in the merged model"),
        ("model.layers.0.input_layernorm.weight", "missing in the merged model"),
        ("model.extra.weight", "missing in the base"),
    }
    assert found.counts == {APPLIED: 4}
    assert (found.exit_status(), found.exit_status(allow_other=True)) == (1, 0)


def test_a_bias_that_the_merged_model_lost_and_buffers_that_it_need_not_have(models: Models) -> None:
    """transformers would load a fresh bias; what it computes itself may be absent."""
    base = models.base | {
        "model.layers.0.self_attn.q_proj.bias": torch.ones(64),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "model.layers.1.attn.bias": torch.ones(1, 1, 4, 4),
    }
    found = intruders.verify(base, models.folder / "adapter", models.merged)
    assert [(other.name, other.reason) for other in found.others] == [
        ("model.layers.0.self_attn.q_proj.bias", "missing in the merged model")
    ]


def test_a_matrix_that_is_missing_or_of_another_shape(models: Models) -> None:
    changed = dict(models.merged)
    del changed[QUERY]
    changed[QUERY.replace("layers.0", "layers.1")] = torch.zeros(64, 32)
    found = models.verify(changed)
    assert found.counts == {APPLIED: 2, OTHER_WEIGHTS: 2}
    assert [matrix.found.words for matrix in found.matrices if matrix.found.verdict == OTHER_WEIGHTS] == [
        "missing in the merged model",
        "other shape: (64, 64), and (64, 32) in the merged model",
    ]


def test_an_update_that_the_quantization_hides(tmp_path: Path) -> None:
    settings = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 64}
    models = Models(tmp_path, lora(lora_alpha=0.006), "float32", **settings)
    file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(**settings), models.merged, "Q4_0")
    found = models.verify(file)
    assert found.counts == {TOO_SMALL: 4}
    assert found.exit_status() == 3


def test_models_that_do_not_belong_together(models: Models) -> None:
    folder = models.folder
    with refused("is a full checkpoint; expected the adapter"):
        intruders.verify(folder / "base", folder / "base", folder / "adapter")
    with refused("is an adapter; expected a full checkpoint"):
        intruders.verify(folder / "base", folder / "adapter", folder / "adapter")
    with pytest.raises(PairingError):
        intruders.verify(folder / "base", folder / "adapter", tiny_llama())


def test_a_new_head_in_quantized_form_is_not_taken_for_another() -> None:
    factors = {"q_proj.lora_A.weight": torch.ones(1, 4), "q_proj.lora_B.weight": torch.ones(4, 1)}
    base, tuned = {"q_proj.weight": torch.eye(4)}, {"q_proj.weight": torch.eye(4) + 1}
    head = {"classifier.weight": torch.randn(2, 4)}
    rounded = {"classifier.weight": (head["classifier.weight"] * 32).to(torch.int8)}
    found = intruders.verify(base, factors | head, tuned | rounded)
    assert found.exit_status() == 0
    assert [(entry.name, entry.reason) for entry in found.unchecked] == [
        ("classifier.weight", "quantized as int8")
    ]
