"""Merges that are right, by PEFT and in every type and format: verify proves that the adapter is in them."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import intruders
from intruders.checkpoints.merges.verdict import (
    ANOTHER_SCALE,
    APPLIED,
    NOT_APPLIED,
    NOT_PROVED,
    TOO_SMALL,
    WITHIN_QUANTIZATION,
)
from intruders.checkpoints.stored.checkpoint import Checkpoint, StoredTensor, read_once
from tests.checkpoints.adapted import move
from tests.checkpoints.gguf_files import write_llama_gguf
from tests.checkpoints.merged_models import (
    TARGETS,
    TYPES,
    WEIGHTS,
    Models,
    State,
    adapted,
    lora,
    lora_updates,
    merged_by_peft,
    require_applied,
    save_both,
    verify,
    weights,
    wide_llama,
    with_delta,
)
from tests.checkpoints.models import (
    SIZES,
    of_class,
    saved,
    tiny_llama,
    tiny_mixtral,
    tiny_phi3,
    with_adapter,
    with_lora,
)
from tests.checkpoints.peft_types import MADE_BY_PEFT, OPTIONS, config_of
from tests.checkpoints.renamed_families import FAMILIES


@pytest.mark.parametrize("safe", [False, True], ids=["plain", "safe"])
@pytest.mark.parametrize("adapter", TYPES)
@pytest.mark.parametrize("base", TYPES)
def test_every_merge_by_peft_is_applied(tmp_path: Path, base: str, adapter: str, safe: bool) -> None:
    model = adapted(lora(target_modules=[*TARGETS, "embed_tokens"]), base, adapter)
    save_both(tmp_path, model, base)
    found = verify(tmp_path, saved(model.merge_and_unload(safe_merge=safe), tmp_path / "merged"))
    assert {matrix.name for matrix in found.matrices} == WEIGHTS | {"model.embed_tokens.weight"}
    require_applied(found, 5)
    low, high = found.scale or (0, 0)
    assert 0.999 < low <= 1 <= high < 1.001


@pytest.mark.parametrize("adapter", TYPES)
@pytest.mark.parametrize("base", TYPES)
def test_an_adapter_that_peft_widens_when_it_loads_it(tmp_path: Path, base: str, adapter: str) -> None:
    save_both(tmp_path, adapted(lora(), base, adapter), base)
    found = verify(tmp_path, merged_by_peft(tmp_path, TYPES[base]))
    require_applied(found, 4)
    assert {matrix.found.precision for matrix in found.matrices} == {"one rounding"}


@pytest.mark.parametrize("alpha", [6, 8])
def test_an_adapter_that_peft_narrows_when_it_loads_it(tmp_path: Path, alpha: int) -> None:
    save_both(tmp_path, adapted(lora(lora_alpha=alpha), "bfloat16", "float32"), "bfloat16")
    found = verify(tmp_path, merged_by_peft(tmp_path, torch.bfloat16, autocast_adapter_dtype=False))
    require_applied(found, 4)
    precisions = {str(matrix.found.precision).partition(",")[0] for matrix in found.matrices}
    assert precisions == {"adapter rounded to bfloat16"}


def test_a_base_that_was_narrowed_and_a_merge_that_was_widened(tmp_path: Path) -> None:
    save_both(tmp_path, adapted(lora()))
    require_applied(verify(tmp_path, merged_by_peft(tmp_path, torch.bfloat16).float()), 4)


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


def test_biases_that_were_trained_in_full_are_compared(tmp_path: Path) -> None:
    models = Models(tmp_path, lora(target_modules=["q_proj"], bias="lora_only"), attention_bias=True)
    assert models.verify(models.merged).others == []
    lost = models.merged | {name: tensor for name, tensor in models.base.items() if "bias" in name}
    assert len(models.verify(lost).others) == 2


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
    save_both(tmp_path / "second", adapted(lora(r=2, lora_alpha=3), "bfloat16"), "bfloat16")
    updates = lora_updates(tmp_path / "second")
    changed = {name: (first[name].float() + 0.3 * 1.5 * updates[name]).bfloat16() for name in WEIGHTS}
    merged = first | changed
    total = f"{tmp_path / 'adapter'}@0.7+{tmp_path / 'second' / 'adapter'}@0.3"
    found = intruders.verify(tmp_path / "base", total, merged)
    assert set(found.counts) <= {APPLIED, NOT_PROVED}
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
    tuned = with_adapter(lora(target_modules=["qkv_proj", "gate_up_proj"]), model)
    saved(tuned, tmp_path / "adapter")
    merged = weights(tuned.merge_and_unload())
    for name, rows in (
        ("self_attn.qkv_proj", slice(64, 96)),  # the keys, of half as many heads
        ("mlp.gate_up_proj", slice(96, None)),
    ):
        weight = f"model.layers.0.{name}.weight"
        merged[weight][rows] = base[weight][rows]
    whole = verify(tmp_path, merged)
    assert APPLIED not in whole.counts
    split = verify(tmp_path, merged, split_fused=True)
    found = {matrix.name.partition(".weight")[2]: matrix.found.verdict for matrix in split.matrices}
    of_both = {"[q]": APPLIED, "[k]": NOT_APPLIED, "[v]": APPLIED, "[gate]": APPLIED, "[up]": NOT_APPLIED}
    assert found == of_both


def test_each_matrix_of_the_base_is_read_once() -> None:
    reads: list[str] = []
    numbers = {"a": torch.randn(3, 2), "b": torch.randn(3, 2)}

    def stored(name: str) -> StoredTensor:
        return StoredTensor((3, 2), torch.float32, "F32", lambda: reads.append(name) or numbers[name])  # type: ignore[func-returns-value]

    kept = read_once(Checkpoint("base", "checkpoint", "memory", {name: stored(name) for name in numbers}))
    for name in "aaba":
        assert torch.equal(kept.read(name), numbers[name])
    for index in (0, 1, 0):  # where nothing reads one matrix of a tensor alone, all come from one reading
        assert torch.equal(kept.tensors["b"].read_slice(index), numbers["b"][index])
    assert reads == ["a", "b", "a", "b"]


@pytest.mark.parametrize("in_memory", [False, True], ids=["on disk", "in memory"])
@pytest.mark.parametrize("parameters", [True, False], ids=["of the experts", "of attention alone"])
def test_experts_that_the_base_has_one_by_one(tmp_path: Path, in_memory: bool, parameters: bool) -> None:
    """transformers writes Mixtral's experts one by one, and has them stacked in memory, where adapters act on them."""
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if parameters else None
    model = with_lora(tiny_mixtral(), target_parameters=targets)
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


@pytest.mark.parametrize("method", ["oft", "hra", "miss", "vera", "randlora", "boft", "fourierft"])
@pytest.mark.parametrize("base", TYPES)
def test_a_merge_of_a_type_that_peft_makes_is_the_same_bit_for_bit(
    tmp_path: Path, base: str, method: str
) -> None:
    config = (OPTIONS | MADE_BY_PEFT)[method]()
    model = peft.get_peft_model(wide_llama().to(TYPES[base]), config)
    move(model, seed=1, size=0.1)
    save_both(tmp_path, model, base)
    merged = weights(copy.deepcopy(model).merge_and_unload())
    found = verify(tmp_path, merged)
    assert found.counts == {APPLIED: 4}, found.matrices
    assert all("bit for bit" in str(one.found.precision) for one in found.matrices)
    move(model, seed=2, size=0.1)  # another adapter, of which the file knows nothing
    other = verify(tmp_path, weights(model.merge_and_unload()))
    assert not set(other.counts) & {APPLIED, TOO_SMALL}
    unmerged = verify(tmp_path, tmp_path / "base")
    assert unmerged.exit_status() != 0


OTHER_METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "dora": lambda: lora(use_dora=True),
    "rslora": lambda: lora(use_rslora=True),
    "loha": config_of("LoHa", r=4, alpha=6),
    "lokr": config_of("LoKr", r=4, alpha=6),
    "adalora": config_of("AdaLora", init_r=4, total_step=10),
    "ia3": config_of("IA3", feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", OTHER_METHODS)
def test_other_methods(tmp_path: Path, method: str, base: str) -> None:
    models = Models(tmp_path, OTHER_METHODS[method](), base)
    found = models.verify(models.merged)
    assert set(found.counts) == {APPLIED}
    assert found.exit_status() == 0
    assert models.verify(models.base).exit_status() == 1
    after = weights(merged_by_peft(tmp_path, torch.float32))  # W0 + D with the D of single precision
    for scale in (1.01, 0.9, -1.0, 2.0):
        off = models.verify(scaled(models.base, after, scale))
        assert off.exit_status() == 1
        assert set(off.counts) <= {ANOTHER_SCALE, TOO_SMALL}


def scaled(base: State, after: State, scale: float) -> State:
    """W0 + scale * D, rounded once to the type of W0."""
    return {
        name: (one.float() + scale * (after[name] - one.float())).to(one.dtype) if name in WEIGHTS else one
        for name, one in base.items()
    }


@pytest.mark.parametrize("adapter", ["bfloat16", "float16"])
@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", ["dora", "loha", "lokr", "ia3"])
def test_steps_in_half_precision_are_never_called_wrong(
    tmp_path: Path, method: str, base: str, adapter: str
) -> None:
    model = adapted(OTHER_METHODS[method](), base, adapter)
    save_both(tmp_path, model, base)
    found = verify(tmp_path, model.merge_and_unload())
    assert set(found.counts) <= {APPLIED, NOT_PROVED, TOO_SMALL}, found.matrices
    assert found.exit_status() in (0, 3)


@pytest.mark.parametrize(
    ("family", "head", "modules"),
    [
        ("gpt_neox", "lm_head", ["query_key_value"]),
        ("whisper", "proj_out", ["q_proj"]),
        ("llama, tied", "lm_head", ["q_proj"]),
    ],
)
def test_a_head_that_the_adapter_stores_is_that_of_the_merge(
    family: str, head: str, modules: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = tiny_llama(tie_word_embeddings=True) if family == "llama, tied" else FAMILIES[family]()
    saved(model, tmp_path / "base")
    merged = merged_with(
        peft.LoraConfig(r=2, target_modules=modules, modules_to_save=[head]), model, tmp_path
    )
    right = verify(tmp_path, merged)
    assert (right.exit_status(), right.others) == (0, [])
    tensors = load_file(merged / "model.safetensors")
    name = next(name for name in tensors if name.startswith((head, "embed_out")))
    wrong = rewritten(merged, tensors | {name: tensors[name] * 1.5})
    assert verify(tmp_path, wrong).exit_status() == 1


def merged_with(config: peft.PeftConfig, model: nn.Module, folder: Path) -> Path:
    adapted = peft.get_peft_model(model, config)
    move(adapted, seed=1, size=0.5)
    saved(adapted, folder / "adapter")
    return saved(adapted.merge_and_unload(), folder / "merged")


def rewritten(merged: Path, tensors: State) -> Path:
    wrong = shutil.copytree(merged, merged.with_name("wrong"))
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    return wrong


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("TOKEN_CLS", "TokenClassification"),
        ("QUESTION_ANS", "QuestionAnswering"),
        ("SEQ_CLS", "SequenceClassification"),
        (None, "MaskedLM"),
    ],
)
def test_a_pooler_that_the_class_of_the_merge_has_none_of_is_not_missing(
    task: str | None, kind: str, tmp_path: Path
) -> None:
    """BERT as it was published has a pooler, and a head on the next sentence, which most classes are made without."""
    base = saved(of_class("BertForPreTraining", "BertConfig", **SIZES), tmp_path / "base")
    config = peft.LoraConfig(task_type=task, r=2, target_modules=["query", "value"])
    merged = merged_with(config, getattr(transformers, f"BertFor{kind}").from_pretrained(base), tmp_path)
    right = verify(tmp_path, merged)
    assert (right.exit_status(), right.others) == (0, [])
    kept = sorted(name for name in load_file(merged / "model.safetensors") if "pooler" in name)
    assert bool(kept) == (task == "SEQ_CLS")
    assert any(entry.name.endswith("pooler.dense.weight") for entry in right.unchecked) == (not kept)
    tensors = load_file(merged / "model.safetensors")
    if kept:  # also of a state dict, which names no class
        wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
        assert verify(tmp_path, wrapped).others == []
    # Where the class has one, or lacks another part, it is missing.
    del tensors[kept[0] if kept else next(name for name in tensors if name.endswith("output.dense.bias"))]
    result = verify(tmp_path, rewritten(merged, tensors))
    reasons = [other.reason for other in result.others]
    assert (result.exit_status(), reasons) == (1, ["missing in the merged model"])
