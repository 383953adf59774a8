"""Merged models beside their base and adapter: real merges by PEFT, and merges that went wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

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
    WITHIN_QUANTIZATION,
)
from intruders.errors import CheckpointError, NonFiniteError, PairingError

from .adapted import move
from .gguf_files import write_llama_gguf
from .models import saved, tiny_llama
from .peft_types import MADE_BY_PEFT

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TARGETS = ["q_proj", "down_proj"]
QUERY = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS = {
    f"model.layers.{i}.{part}.weight" for i in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")
}

State = dict[str, Tensor]


def wide_llama(**settings: Any) -> Any:
    return tiny_llama(**{"hidden_size": 64, "intermediate_size": 96} | settings)


def adapted(config: peft.PeftConfig, base: str = "float32", adapter: str = "float32", **settings: Any) -> Any:
    """A tiny Llama in one type with a random adapter in another."""
    model = peft.get_peft_model(wide_llama(**settings).to(TYPES[base]), config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "ranknum" not in name:  # a rank, and no weight
            step = 0.03 * torch.randn(parameter.shape, generator=generator)
            before = 0 if "lora_" in name and "magnitude" not in name else parameter.data.float()
            parameter.data = (before + step).to(TYPES[adapter])
    return model


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | settings)


def weights(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Models:
    """A base and an adapter on disk, what PEFT merges them to, and what can go wrong with it."""

    def __init__(self, folder: Path, config: peft.PeftConfig, base: str = "float32", **settings: Any) -> None:
        self.folder = folder
        model = adapted(config, base, **settings)
        self.base = weights(wide_llama(**settings).to(TYPES[base]))
        saved(wide_llama(**settings).to(TYPES[base]), folder / "base")
        saved(model, folder / "adapter")
        self.merged = weights(model.merge_and_unload())

    def verify(self, merged: State | Path, **settings: Any) -> intruders.Verification:
        return intruders.verify(self.folder / "base", self.folder / "adapter", merged, **settings)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), lora(), "bfloat16")


def verdicts(found: intruders.Verification) -> set[str]:
    return set(found.counts)


@pytest.mark.parametrize("safe", [False, True], ids=["plain", "safe"])
@pytest.mark.parametrize("adapter", TYPES)
@pytest.mark.parametrize("base", TYPES)
def test_every_merge_by_peft_is_applied(tmp_path: Path, base: str, adapter: str, safe: bool) -> None:
    model = adapted(lora(target_modules=[*TARGETS, "embed_tokens"]), base, adapter)
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    saved(model.merge_and_unload(safe_merge=safe), tmp_path / "merged")
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert {matrix.name for matrix in found.matrices} == WEIGHTS | {"model.embed_tokens.weight"}
    assert found.counts == {APPLIED: 5}, found.matrices
    assert found.others == []
    assert found.exit_status() == 0
    low, high = found.scale or (0, 0)
    assert 0.999 < low <= 1 <= high < 1.001


@pytest.mark.parametrize("method", ["oft", "hra", "miss", "vera", "randlora", "boft", "fourierft"])
@pytest.mark.parametrize("base", TYPES)
def test_a_merge_of_a_type_that_peft_makes_is_the_same_bit_for_bit(
    tmp_path: Path, base: str, method: str
) -> None:
    config = peft.VeraConfig(r=4, target_modules=TARGETS) if method == "vera" else MADE_BY_PEFT[method]()
    model = peft.get_peft_model(wide_llama().to(TYPES[base]), config)
    move(model, seed=1, size=0.1)
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    merged = weights(copy.deepcopy(model).merge_and_unload())
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    assert found.counts == {APPLIED: 4}, found.matrices
    assert all("bit for bit" in str(one.found.precision) for one in found.matrices)
    move(model, seed=2, size=0.1)  # another adapter, of which the file knows nothing
    other = intruders.verify(tmp_path / "base", tmp_path / "adapter", weights(model.merge_and_unload()))
    assert not verdicts(other) & {APPLIED, TOO_SMALL}
    unmerged = intruders.verify(tmp_path / "base", tmp_path / "adapter", tmp_path / "base")
    assert unmerged.exit_status() != 0


@pytest.mark.parametrize("adapter", TYPES)
@pytest.mark.parametrize("base", TYPES)
def test_an_adapter_that_peft_widens_when_it_loads_it(tmp_path: Path, base: str, adapter: str) -> None:
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(adapted(lora(), base, adapter), tmp_path / "adapter")
    model = type(wide_llama()).from_pretrained(tmp_path / "base", dtype=TYPES[base])
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    assert found.counts == {APPLIED: 4}
    assert {matrix.found.precision for matrix in found.matrices} == {"one rounding"}


@pytest.mark.parametrize("alpha", [6, 8])
def test_an_adapter_that_peft_narrows_when_it_loads_it(tmp_path: Path, alpha: int) -> None:
    saved(wide_llama().bfloat16(), tmp_path / "base")
    saved(adapted(lora(lora_alpha=alpha), "bfloat16", "float32"), tmp_path / "adapter")
    model = type(wide_llama()).from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", autocast_adapter_dtype=False)
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", loaded.merge_and_unload())
    assert found.counts == {APPLIED: 4}
    assert all(
        (matrix.found.precision or "").startswith("adapter rounded to bfloat16") for matrix in found.matrices
    )


def test_a_base_that_was_narrowed_and_a_merge_that_was_widened(tmp_path: Path) -> None:
    saved(wide_llama(), tmp_path / "base")
    saved(adapted(lora()), tmp_path / "adapter")
    model = type(wide_llama()).from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().float()
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    assert found.counts == {APPLIED: 4}
    assert found.others == []


OTHER_METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "dora": lambda: lora(use_dora=True),
    "rslora": lambda: lora(use_rslora=True),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_modules=TARGETS, total_step=10),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "ia3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", OTHER_METHODS)
def test_other_methods(tmp_path: Path, method: str, base: str) -> None:
    models = Models(tmp_path, OTHER_METHODS[method](), base)
    found = models.verify(models.merged)
    assert verdicts(found) == {APPLIED}
    assert found.exit_status() == 0
    assert models.verify(models.base).exit_status() == 1
    for scale in (1.01, 0.9, -1.0, 2.0):
        off = models.verify(in_single_precision(models, scale))
        assert off.exit_status() == 1
        assert verdicts(off) <= {ANOTHER_SCALE, TOO_SMALL}


def in_single_precision(models: Models, scale: float) -> State:
    """W0 + scale * D with the D that PEFT makes of W0 in single precision, rounded once."""
    model = type(wide_llama()).from_pretrained(models.folder / "base", dtype=torch.float32)
    after = weights(peft.PeftModel.from_pretrained(model, models.folder / "adapter").merge_and_unload())
    return {
        name: (one.float() + scale * (after[name] - one.float())).to(one.dtype) if name in WEIGHTS else one
        for name, one in models.base.items()
    }


@pytest.mark.parametrize("adapter", ["bfloat16", "float16"])
@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", ["dora", "loha", "lokr", "ia3"])
def test_steps_in_half_precision_are_never_called_wrong(
    tmp_path: Path, method: str, base: str, adapter: str
) -> None:
    model = adapted(OTHER_METHODS[method](), base, adapter)
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", model.merge_and_unload())
    assert verdicts(found) <= {APPLIED, NOT_PROVED, TOO_SMALL}, found.matrices
    assert found.exit_status() in (0, 3)


def with_delta(models: Models, change: Callable[[Tensor], Tensor]) -> State:
    """A merge in which the update of every matrix was changed, in the type of the base."""
    scale, result = 6 / 4, dict(models.base)
    from safetensors.torch import load_file

    factors = load_file(models.folder / "adapter" / "adapter_model.safetensors")
    for name in WEIGHTS:
        module = "base_model.model." + name.removesuffix(".weight")
        down, up = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
        result[name] = (models.base[name].float() + change(scale * up @ down)).to(models.base[name].dtype)
    return result


@pytest.mark.parametrize(
    ("factor", "verdict", "words"),
    [
        (0.0, NOT_APPLIED, ""),
        (4 / 6, ANOTHER_SCALE, "the adapter's own scale of 1.5 was left out"),
        (1.5, ANOTHER_SCALE, "the adapter's own scale of 1.5 was counted twice"),
        (2.0, ANOTHER_SCALE, "applied twice"),
        (-1.0, ANOTHER_SCALE, "subtracted instead of added"),
        (1.001, ANOTHER_SCALE, ""),
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


def test_a_merge_that_was_made_twice(models: Models) -> None:
    """PEFT's own, rounded to bfloat16 after each."""
    once = with_delta(models, lambda update: update)
    twice = {name: once[name] + (once[name] - models.base[name]) for name in once}
    found = models.verify(twice)
    assert found.counts == {ANOTHER_SCALE: 4}
    assert {matrix.found.words for matrix in found.matrices} == {"applied twice"}


def test_a_transposed_update(models: Models) -> None:
    found = models.verify(
        with_delta(models, lambda update: update.T if update.shape[0] == update.shape[1] else update)
    )
    assert found.counts == {APPLIED: 2, TRANSPOSED: 2}
    assert found.exit_status() == 1


def test_half_of_the_rank(models: Models) -> None:
    def half(update: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        return u[:, :2] * s[:2] @ v[:2]

    found = models.verify(with_delta(models, half))
    assert found.counts == {OTHER_WEIGHTS: 4}
    assert all("contains the update at scale 0." in matrix.found.words for matrix in found.matrices)


def test_another_adapter(models: Models) -> None:
    generator = torch.Generator().manual_seed(9)
    found = models.verify(
        with_delta(models, lambda update: update.std() * torch.randn(update.shape, generator=generator))
    )
    assert found.counts == {OTHER_WEIGHTS: 4}


def test_an_earlier_checkpoint_of_the_same_adapter(models: Models) -> None:
    """A thousandth of the update away from it."""
    generator = torch.Generator().manual_seed(9)
    found = models.verify(
        with_delta(
            models,
            lambda update: update + 1e-3 * update.std() * torch.randn(update.shape, generator=generator),
        )
    )
    assert found.exit_status() == 1
    assert APPLIED not in found.counts


def test_one_layer_of_sixteen(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(target_modules=["q_proj"]), "bfloat16", num_hidden_layers=16)
    name = "model.layers.11.self_attn.q_proj.weight"
    found = models.verify(models.merged | {name: models.base[name]})
    assert found.counts == {APPLIED: 15, NOT_APPLIED: 1}
    assert [matrix.name for matrix in found.matrices if matrix.found.verdict == NOT_APPLIED] == [name]
    assert found.exit_status() == 1


def nf4(weight: Tensor) -> Tensor:
    """What bitsandbytes restores of a weight that it stored in four bits."""
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(weight.float(), quant_type="nf4")
    return bitsandbytes.functional.dequantize_4bit(packed, state).to(weight.dtype)


def test_a_merge_into_the_dequantized_base_of_qlora(tmp_path: Path) -> None:
    model = adapted(lora(target_modules=["q_proj"]), "bfloat16", hidden_size=256, num_hidden_layers=1)
    saved(wide_llama(hidden_size=256, num_hidden_layers=1).bfloat16(), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    for name, module in model.named_modules():
        if name.endswith("q_proj.base_layer"):
            module.weight.data = nf4(module.weight.data)
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", model.merge_and_unload())
    (matrix,) = found.matrices
    assert matrix.found.verdict == ON_OTHER_WEIGHTS
    assert matrix.found.estimate == pytest.approx(1, abs=5 * (matrix.found.error or 0))
    assert matrix.found.rest == pytest.approx(0.09, abs=0.02)
    assert found.exit_status() == 1


def test_an_update_below_the_rounding_of_the_base(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(), "bfloat16")
    tiny = {name: tensor.clone() for name, tensor in models.base.items()}
    from safetensors.torch import load_file, save_file

    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: 1e-6 * tensor for name, tensor in load_file(file).items()}, file)
    found = models.verify(tiny)
    assert found.counts == {TOO_SMALL: 4}
    assert found.exit_status() == 3


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
    with pytest.raises(NonFiniteError, match=r"'model.layers.0.self_attn.q_proj.weight' contains NaN or inf"):
        intruders.verify(broken, models.folder / "adapter", models.merged)


def test_what_the_merged_model_changed_besides(models: Models) -> None:
    changed = {name: tensor.clone() for name, tensor in models.merged.items()}
    changed["model.norm.weight"] *= 1.5
    changed["model.layers.1.self_attn.k_proj.weight"] *= 1.5
    del changed["model.layers.0.mlp.up_proj.weight"]
    changed["model.extra.weight"] = torch.ones(2, 2)
    found = models.verify(changed)
    assert {(one.name, one.reason) for one in found.others} == {
        ("model.norm.weight", "other numbers"),
        ("model.layers.1.self_attn.k_proj.weight", "other numbers"),
        ("model.layers.0.mlp.up_proj.weight", "missing in the merged model"),
        ("model.extra.weight", "missing in the base"),
    }
    assert found.counts == {APPLIED: 4}
    assert (found.exit_status(), found.exit_status(allow_other=True)) == (1, 0)


def test_a_head_tied_to_the_embedding_may_be_written_beside_it(tmp_path: Path) -> None:
    targets = ["embed_tokens", "q_proj"]
    models = Models(tmp_path, lora(target_modules=targets), "bfloat16", tie_word_embeddings=True)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= models.merged.keys()
    found = models.verify(models.merged)
    assert found.counts == {APPLIED: 3}
    assert found.others == []
    untied = models.merged | {"lm_head.weight": models.merged["lm_head.weight"] + 1}
    assert [one.name for one in models.verify(untied).others] == ["lm_head.weight"]


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


def test_modules_saved_in_full_are_compared_with_the_adapters_own(tmp_path: Path) -> None:
    config = lora(modules_to_save=["lm_head", "norm"])
    models = Models(tmp_path, config, "bfloat16")
    found = models.verify(models.merged)
    assert found.counts == {APPLIED: 5}  # the head among them
    assert found.others == []
    lost = models.verify(
        models.merged | {name: models.base[name] for name in ("lm_head.weight", "model.norm.weight")}
    )
    assert lost.counts == {APPLIED: 4, NOT_APPLIED: 1}
    assert [one.reason for one in lost.others] == ["other numbers than the adapter saved"]


def test_biases_that_the_adapter_changes_are_not_compared(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(target_modules=["q_proj"], lora_bias=True), attention_bias=True)
    found = models.verify(models.merged)
    assert found.counts == {APPLIED: 2}
    assert found.others == []
    assert [one.name for one in found.unchecked] == [
        f"model.layers.{layer}.self_attn.q_proj.bias" for layer in (0, 1)
    ]
    # biases that were trained in full are in the adapter's file, and are compared
    trained = Models(
        tmp_path / "trained", lora(target_modules=["q_proj"], bias="lora_only"), attention_bias=True
    )
    assert trained.verify(trained.merged).others == []
    assert (
        len(trained.verify(trained.merged | {k: v for k, v in trained.base.items() if "bias" in k}).others)
        == 2
    )


def test_a_sum_of_adapters(tmp_path: Path) -> None:
    saved(wide_llama(), tmp_path / "base")
    model = adapted(lora())
    saved(model, tmp_path / "a")
    model.add_adapter("b", lora(r=2, target_modules=["q_proj"]))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if ".b." in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path, selected_adapters=["b"])
    model.add_weighted_adapter(["default", "b"], [0.7, 0.3], "both", combination_type="cat")
    model.set_adapter("both")
    merged = weights(model.merge_and_unload())
    a, b = tmp_path / "a", tmp_path / "b"
    assert intruders.verify(tmp_path / "base", f"{a}@0.7+{b}@0.3", merged).counts == {APPLIED: 4}
    assert intruders.verify(tmp_path / "base", f"{a}@0.7+{b}@0.31", merged).exit_status() == 1
    assert intruders.verify(tmp_path / "base", a, merged).exit_status() == 1


def test_adapters_merged_one_after_the_other_in_bfloat16(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(), "bfloat16")
    first = with_delta(models, lambda update: 0.7 * update)
    second = Models(tmp_path / "second", lora(r=2, lora_alpha=3), "bfloat16")
    second.base = first
    from safetensors.torch import load_file

    factors = load_file(tmp_path / "second" / "adapter" / "adapter_model.safetensors")
    merged = dict(first)
    for name in WEIGHTS:
        module = "base_model.model." + name.removesuffix(".weight")
        update = 0.3 * 1.5 * factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"]
        merged[name] = (first[name].float() + update).bfloat16()
    total = f"{tmp_path / 'adapter'}@0.7+{tmp_path / 'second' / 'adapter'}@0.3"
    found = intruders.verify(tmp_path / "base", total, merged)
    assert verdicts(found) <= {APPLIED, NOT_PROVED}
    assert found.exit_status() == 3


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_quantized_merge(tmp_path: Path, kind: str) -> None:
    settings = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 64}
    models = Models(tmp_path, lora(), "float32", **settings)
    for weights, expected in (
        (models.merged, WITHIN_QUANTIZATION),
        (models.base, NOT_APPLIED),
        (with_delta(models, lambda update: 2 * update), ANOTHER_SCALE),
    ):
        file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(**settings), weights, kind)
        found = models.verify(file)
        assert found.counts == {expected: 4}, found.matrices
        assert found.exit_status() == (0 if expected == WITHIN_QUANTIZATION else 1)
        assert found.others == []
        assert {one.reason for one in found.unchecked} == {f"quantized as {kind}"}
        assert all(matrix.found.scale is None for matrix in found.matrices)
        if expected == WITHIN_QUANTIZATION:
            assert found.estimate == pytest.approx(1, abs=0.05)


def test_an_update_that_the_quantization_hides(tmp_path: Path) -> None:
    settings = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 64}
    models = Models(tmp_path, lora(lora_alpha=0.006), "float32", **settings)
    file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(**settings), models.merged, "Q4_0")
    found = models.verify(file)
    assert found.counts == {TOO_SMALL: 4}
    assert found.exit_status() == 3


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_a_merge_as_gguf_that_is_not_quantized(tmp_path: Path, kind: str) -> None:
    models = Models(tmp_path, lora(), "bfloat16")
    file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(), models.merged, kind)
    found = models.verify(file)
    assert found.counts == {APPLIED: 4}
    assert (found.others, found.unchecked) == ([], [])


def test_parts_of_a_fused_weight(tmp_path: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).eval()
    saved(model, tmp_path / "base")
    base = weights(model)
    tuned = peft.get_peft_model(model, lora(target_modules=["qkv_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.03 * torch.randn(parameter.shape)
    saved(tuned, tmp_path / "adapter")
    merged = weights(tuned.merge_and_unload())
    name = "model.layers.0.self_attn.qkv_proj.weight"
    merged[name][64:96] = base[name][64:96]  # the keys
    whole = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    assert APPLIED not in whole.counts
    split = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged, split_fused=True)
    found = {matrix.name.removeprefix(name): matrix.found.verdict for matrix in split.matrices}
    assert found == {"[q]": APPLIED, "[k]": NOT_APPLIED, "[v]": APPLIED}


def test_each_matrix_of_the_base_is_read_once(models: Models) -> None:
    from intruders.checkpoints.checkpoint import StoredTensor
    from intruders.checkpoints.open import open_checkpoint
    from intruders.checkpoints.verify import _read_in_turn

    reads: list[str] = []
    opened = open_checkpoint(models.folder / "base")

    def counted(name: str, stored: StoredTensor) -> StoredTensor:
        def read() -> Tensor:
            reads.append(name)
            return stored.read()

        return StoredTensor(stored.shape, stored.dtype, stored.stored_as, read)

    tensors = {name: counted(name, stored) for name, stored in opened.tensors.items()}
    kept = _read_in_turn(copy.copy(opened).__class__(**{**vars(opened), "tensors": tensors}))
    for name in (QUERY, QUERY, "model.norm.weight", QUERY):
        assert torch.equal(kept.read(name), opened.read(name))
    assert reads == [QUERY, "model.norm.weight", QUERY]


def test_the_document_is_plain_json(models: Models) -> None:
    found = models.verify(models.merged | {QUERY: models.base[QUERY]})
    document = json.loads(found.to_json())
    assert document["counts"] == {APPLIED: 3, NOT_APPLIED: 1}
    assert (document["schema"], document["exit_status"]) == (1, 1)
    (first,) = [matrix for matrix in document["matrices"] if matrix["name"] == QUERY]
    assert first.keys() == {
        "name",
        "shape",
        "verdict",
        "words",
        "scale",
        "estimate",
        "error",
        "rest",
        "precision",
        "outside",
        "quantized",
    }
    assert first["shape"] == [64, 64]
    low, high = first["scale"]
    assert low <= 0 <= high


def test_models_that_do_not_belong_together(models: Models, tmp_path: Path) -> None:
    folder = models.folder
    with pytest.raises(CheckpointError, match="is a full checkpoint; expected the adapter"):
        intruders.verify(folder / "base", folder / "base", folder / "adapter")
    with pytest.raises(CheckpointError, match="is an adapter; expected a full checkpoint"):
        intruders.verify(folder / "base", folder / "adapter", folder / "adapter")
    with pytest.raises(PairingError):
        intruders.verify(folder / "base", folder / "adapter", tiny_llama())
    with pytest.raises(CheckpointError, match="nowhere"):
        intruders.verify(folder / "base", folder / "adapter", tmp_path / "nowhere")
