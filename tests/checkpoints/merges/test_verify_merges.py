"""Merges that are right, by PEFT and in every type and format: verify proves that the adapter is in them."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import intruders
from intruders.checkpoints.merges.verdict import (
    ANOTHER_SCALE,
    APPLIED,
    NOT_APPLIED,
    NOT_PROVED,
    WITHIN_QUANTIZATION,
)
from tests.checkpoints.gguf_files import write_llama_gguf
from tests.checkpoints.merged_models import (
    QUERY,
    TARGETS,
    TYPES,
    WEIGHTS,
    Models,
    adapted,
    lora,
    merged_by_peft,
    require_applied,
    verdicts,
    weights,
    wide_llama,
    with_delta,
)
from tests.checkpoints.models import randomize_adapter, saved, tiny_bert, tiny_mixtral, tiny_phi3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), lora(), "bfloat16")


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
    require_applied(found, 5)
    low, high = found.scale or (0, 0)
    assert 0.999 < low <= 1 <= high < 1.001


@pytest.mark.parametrize("adapter", TYPES)
@pytest.mark.parametrize("base", TYPES)
def test_an_adapter_that_peft_widens_when_it_loads_it(tmp_path: Path, base: str, adapter: str) -> None:
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(adapted(lora(), base, adapter), tmp_path / "adapter")
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged_by_peft(tmp_path, TYPES[base]))
    require_applied(found, 4)
    assert {matrix.found.precision for matrix in found.matrices} == {"one rounding"}


@pytest.mark.parametrize("alpha", [6, 8])
def test_an_adapter_that_peft_narrows_when_it_loads_it(tmp_path: Path, alpha: int) -> None:
    saved(wide_llama().bfloat16(), tmp_path / "base")
    saved(adapted(lora(lora_alpha=alpha), "bfloat16", "float32"), tmp_path / "adapter")
    merged = merged_by_peft(tmp_path, torch.bfloat16, autocast_adapter_dtype=False)
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    require_applied(found, 4)
    assert all(
        (matrix.found.precision or "").startswith("adapter rounded to bfloat16") for matrix in found.matrices
    )


def test_a_base_that_was_narrowed_and_a_merge_that_was_widened(tmp_path: Path) -> None:
    saved(wide_llama(), tmp_path / "base")
    saved(adapted(lora()), tmp_path / "adapter")
    merged = merged_by_peft(tmp_path, torch.bfloat16).float()
    require_applied(intruders.verify(tmp_path / "base", tmp_path / "adapter", merged), 4)


def test_a_head_tied_to_the_embedding_may_be_written_beside_it(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(target_modules=["q_proj"]), "bfloat16", tie_word_embeddings=True)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= models.merged.keys()
    require_applied(models.verify(models.merged), 2)
    untied = models.merged | {"lm_head.weight": models.merged["lm_head.weight"] + 1}
    assert [one.name for one in models.verify(untied).others] == ["lm_head.weight"]


def test_an_adapter_on_a_head_that_is_the_embedding(tmp_path: Path) -> None:
    """The file of the base has no head. PEFT adds the update to the head alone, and its merge adds it to both."""
    settings = {"tie_word_embeddings": True}
    models = Models(tmp_path, lora(target_modules=["q_proj", "lm_head"]), **settings)
    assert "lm_head.weight" not in load_file(tmp_path / "base" / "model.safetensors")
    found = models.verify(models.merged)
    assert "lm_head.weight" in {one.name for one in found.matrices}
    assert found.counts == {APPLIED: 3}
    assert [one.name for one in found.others] == ["model.embed_tokens.weight"]
    assert "are one tensor in the merged model" in found.others[0].reason
    assert models.verify(models.base).counts == {NOT_APPLIED: 3}

    audit = intruders.audit(tmp_path / "base", tmp_path / "adapter", include_embeddings=True, cache=False)
    [head] = [matrix for matrix in audit.matrices if matrix.name == "lm_head.weight"]
    update = models.merged["lm_head.weight"] - models.base["lm_head.weight"]  # as PEFT merges it
    assert head.update.frobenius == pytest.approx(float(update.norm()), rel=1e-4)
    assert head.base_singular_values[0] == pytest.approx(
        float(torch.linalg.matrix_norm(models.base["model.embed_tokens.weight"], 2)), rel=1e-5
    )


def test_modules_saved_in_full_are_compared_with_the_adapters_own(tmp_path: Path) -> None:
    config = lora(modules_to_save=["lm_head", "norm"])
    models = Models(tmp_path, config, "bfloat16")
    require_applied(models.verify(models.merged), 5)  # the head among them
    own = {name: models.base[name] for name in ("lm_head.weight", "model.norm.weight")}
    lost = models.verify(models.merged | own)
    assert lost.counts == {APPLIED: 4, NOT_APPLIED: 1}
    assert [one.reason for one in lost.others] == ["other numbers than the adapter saved"]


def test_biases_that_the_adapter_changes_are_not_compared(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(target_modules=["q_proj"], lora_bias=True), attention_bias=True)
    found = models.verify(models.merged)
    require_applied(found, 2)
    assert [one.name for one in found.unchecked] == [
        f"model.layers.{layer}.self_attn.q_proj.bias" for layer in (0, 1)
    ]
    # biases that were trained in full are in the adapter's file, and are compared
    trained = Models(
        tmp_path / "trained", lora(target_modules=["q_proj"], bias="lora_only"), attention_bias=True
    )
    assert trained.verify(trained.merged).others == []
    lost = trained.merged | {name: tensor for name, tensor in trained.base.items() if "bias" in name}
    assert len(trained.verify(lost).others) == 2


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
    for content, expected in (
        (models.merged, WITHIN_QUANTIZATION),
        (models.base, NOT_APPLIED),
        (with_delta(models, lambda update: 2 * update), ANOTHER_SCALE),
    ):
        file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(**settings), content, kind)
        found = models.verify(file)
        assert found.counts == {expected: 4}, found.matrices
        assert found.exit_status() == (0 if expected == WITHIN_QUANTIZATION else 1)
        assert found.others == []
        assert {one.reason for one in found.unchecked} == {f"quantized as {kind}"}
        assert all(matrix.found.scale is None for matrix in found.matrices)
        if expected == WITHIN_QUANTIZATION:
            assert found.estimate == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32"])
def test_a_merge_as_gguf_that_is_not_quantized(tmp_path: Path, kind: str) -> None:
    models = Models(tmp_path, lora(), "bfloat16")
    file = write_llama_gguf(tmp_path / "merged.gguf", wide_llama(), models.merged, kind)
    found = models.verify(file)
    require_applied(found, 4)
    assert found.unchecked == []


def test_parts_of_a_fused_weight(tmp_path: Path) -> None:
    model = tiny_phi3(hidden_size=64, intermediate_size=96)
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
    from intruders.checkpoints.opening.open import open_checkpoint
    from intruders.checkpoints.stored.checkpoint import StoredTensor, read_once

    reads: list[str] = []
    opened = open_checkpoint(models.folder / "base")

    def counted(name: str, stored: StoredTensor) -> StoredTensor:
        def read() -> Tensor:
            reads.append(name)
            return stored.read()

        return StoredTensor(stored.shape, stored.dtype, stored.stored_as, read)

    tensors = {name: counted(name, stored) for name, stored in opened.tensors.items()}
    kept = read_once(copy.copy(opened).__class__(**{**vars(opened), "tensors": tensors}))
    for name in (QUERY, QUERY, "model.norm.weight", QUERY):
        assert torch.equal(kept.read(name), opened.read(name))
    assert reads == [QUERY, "model.norm.weight", QUERY]
    # Where nothing reads one matrix of a tensor alone, all of them come from one reading.
    reads.clear()
    whole = opened.read("model.norm.weight")
    for index in (0, 1, 0):
        assert torch.equal(kept.tensors["model.norm.weight"].read_slice(index), whole[index])
    assert reads == ["model.norm.weight"]


@pytest.mark.parametrize("in_memory", [False, True], ids=["on disk", "in memory"])
@pytest.mark.parametrize("parameters", [True, False], ids=["of the experts", "of attention alone"])
def test_experts_that_the_base_has_one_by_one(tmp_path: Path, in_memory: bool, parameters: bool) -> None:
    """transformers writes Mixtral's experts one by one, and has them stacked in memory, where adapters act on them."""
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if parameters else None
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=targets)
    model = peft.get_peft_model(tiny_mixtral(), config)
    randomize_adapter(model)
    base, adapter = saved(tiny_mixtral(), tmp_path / "base"), saved(model, tmp_path / "adapter")
    merged = model.merge_and_unload()
    found = intruders.verify(base, adapter, merged if in_memory else saved(merged, tmp_path / "merged"))
    require_applied(found, 7 if parameters else 1)
    assert found.unchecked == []

    one = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    lost = load_file(saved(merged, tmp_path / "lost") / "model.safetensors")
    before = load_file(base / "model.safetensors")[one]
    lost[one] = before if parameters else before + 1
    found = intruders.verify(base, adapter, lost)
    assert found.counts == ({APPLIED: 6, NOT_APPLIED: 1} if parameters else {APPLIED: 1})
    assert [other.name for other in found.others] == ([] if parameters else [one])


@pytest.mark.parametrize(
    "settings",
    [{"modules_to_save": ["LayerNorm", "pooler"]}, {"bias": "all"}, {"lora_bias": True}],
    ids=["norms", "biases", "biases of B"],
)
def test_norms_and_biases_under_another_prefix(tmp_path: Path, settings: dict[str, object]) -> None:
    """The adapter of a classifier has ``bert.`` before every name, and the base has not."""
    model = tiny_bert(classes=3)
    base = saved(model.bert, tmp_path / "base")  # type: ignore[arg-type]
    tuned = peft.get_peft_model(model, lora(target_modules=["query"], **settings))
    randomize_adapter(tuned)
    adapter = saved(tuned, tmp_path / "adapter")
    merged = weights(tuned.merge_and_unload())
    found = intruders.verify(base, adapter, merged)
    # The head that an untrained base lacks is neither the adapter's nor the base's.
    head = {"classifier.weight", "classifier.bias"}
    assert set(found.counts) == {APPLIED}
    assert {other.name for other in found.others} <= head
    assert {other.reason for other in found.others} <= {"missing in the base"}
    assert [other.name for other in found.unchecked] == (
        [f"encoder.layer.{layer}.attention.self.query.bias" for layer in (0, 1)]
        if "lora_bias" in settings
        else []
    )
    name = "encoder.layer.1.output.LayerNorm.bias"
    lost = intruders.verify(
        base, adapter, merged | {f"bert.{name}": load_file(base / "model.safetensors")[name] + 1}
    )
    assert [other.name for other in lost.others if other.name not in head] == [name]
