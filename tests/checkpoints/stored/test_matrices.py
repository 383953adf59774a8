"""Weights that are not simply (out, in): Conv1D, convolutions, experts, fused and resized ones; sums."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.matrices import (
    fused_rows,
    reason_to_skip,
    require_selection,
    selected_matrices,
    stored_input_first,
)
from intruders.checkpoints.stored.selection import Selection
from intruders.checkpoints.stored.tied import has_head
from intruders.errors import SettingError
from tests.checkpoints.models import (
    assert_tuned,
    differing,
    loaded,
    merged_weights,
    paired,
    randomize_adapter,
    reasons,
    refused,
    saved,
    tiny_llama,
    tuned_of,
    with_adapter,
    with_lora,
)


@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_normalized_convolution_is_one_matrix(normalize: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"conv": normalize(nn.Conv1d(6, 8, 5), dim=2)})
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    after = {name: tensor + torch.randn(tensor.shape) for name, tensor in before.items()}
    # Its length, one number for every entry of the kernel, is no matrix.
    ((name, both),) = differing(before, after).items()
    assert torch.equal(both.base, before[name].flatten(1))
    assert torch.equal(tuned_of(both), after[name].reshape(8, 6 * 5))


def test_linear_layers_under_gpt2_names_stay_as_they_are() -> None:
    """gpt_bigcode has nn.Linear where GPT-2 has Conv1D; the biases tell."""
    others = {"h.0.attn.c_attn.bias": (24,), "h.0.attn.c_proj.weight": (8, 8)}
    conv1d, linear = ({"h.0.attn.c_attn.weight": shape, **others} for shape in ((8, 24), (24, 8)))
    assert stored_input_first(conv1d) == {"h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight"}
    assert stored_input_first(linear) == set()


def conv_net(kernel: int, groups: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, kernel, groups=groups), nn.Conv1d(6, 4, 3), nn.Linear(4, 4))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_lora_on_convolutions(kernel: int, dora: bool) -> None:
    model = with_lora(conv_net(kernel, 1), target_modules=["0", "1"], use_dora=dora)
    different = differing(model)
    assert list(different) == ["0.weight", "1.weight"]
    assert_tuned(different, merged_weights(model))


def test_grouped_convolution_is_refused() -> None:
    model = get_peft_model(conv_net(3, 2), LoraConfig(r=2, target_modules=["0"]))
    with refused("no grouped convolution, whose LoRA PEFT cannot merge either"):
        open_sides(model)


def test_split_by_head_of_gpt_neox() -> None:
    """The rows of q, k and v that transformers itself takes, seen by what each head computes."""
    rows = fused_rows(
        "h.0.attention.query_key_value.weight", 24, {"model_type": "gpt_neox", "num_attention_heads": 2}
    )
    assert rows is not None
    by_head = torch.arange(24).view(2, 3 * 4)  # GPTNeoXAttention: view(heads, 3 * head size), then chunk(3)
    q, k, v = by_head.chunk(3, dim=-1)
    assert [rows["q"].tolist(), rows["k"].tolist(), rows["v"].tolist()] == [
        part.flatten().tolist() for part in (q, k, v)
    ]
    assert fused_rows("h.0.self_attention.query_key_value.weight", 24, {"model_type": "falcon"}) is None


def test_split_of_a_vision_tower_by_its_own_heads() -> None:
    """Qwen2-VL splits by ``reshape(tokens, 3, heads, -1)``: thirds, whatever the text model's groups."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig, Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention

    vision = Qwen2VLVisionConfig(embed_dim=48, num_heads=4)
    config = Qwen2VLConfig(text_config={"num_attention_heads": 12, "num_key_value_heads": 2}).to_dict()
    config["vision_config"] = vision.to_dict()
    name = "model.visual.blocks.0.attn.qkv.weight"
    weight = VisionAttention(vision).qkv.weight
    rows = fused_rows(name, len(weight), config)
    assert rows is not None
    tokens = torch.randn(5, 48)
    # As the model's own forward takes them apart.
    parts = (tokens @ weight.mT).reshape(5, 3, 4, -1).permute(1, 0, 2, 3).unbind(0)
    for part, truth in zip("qkv", parts, strict=True):
        torch.testing.assert_close(tokens @ weight[rows[part]].mT, truth.flatten(1))
    del config["vision_config"]
    assert fused_rows(name, len(weight), config) is None  # nothing says what the tower's heads are


@pytest.mark.parametrize(
    ("tower", "sizes"),
    [
        ({"num_heads": 16}, [1280, 1280, 1280]),
        ({"hidden_size": 1280}, [1280, 1280, 1280]),
        ({"num_heads": 16, "num_key_value_heads": 4}, [2560, 640, 640]),
        ({"num_key_value_heads": 4}, None),
    ],
)
def test_heads_of_a_tower(tower: dict[str, int], sizes: list[int] | None) -> None:
    text = {"num_attention_heads": 12, "num_key_value_heads": 2}
    for name, key in (
        ("visual.blocks.0.attn.qkv.weight", "vision_config"),
        ("model.vision_tower.layers.0.qkv_proj.weight", "vision_config"),
        ("thinker.audio_tower.layers.0.attn.qkv.weight", "audio_config"),
    ):
        rows = fused_rows(name, 3840, {**text, key: tower})
        assert (None if rows is None else [len(part) for part in rows.values()]) == sizes
    rows = fused_rows("model.layers.0.self_attn.qkv_proj.weight", 3840, {**text, "vision_config": tower})
    assert rows is not None
    assert [len(part) for part in rows.values()] == [2880, 480, 480]


def test_sums_of_models(tmp_path: Path) -> None:
    first = with_lora()
    second = with_lora(seed=2, r=3, target_modules=["q_proj", "k_proj"], use_rslora=True)
    a, b = saved(first, tmp_path / "a"), saved(second, tmp_path / "b")
    full = saved(tiny_llama(7), tmp_path / "full")
    base = {name: tensor.clone() for name, tensor in tiny_llama().state_dict().items()}
    tuned = {a: merged_weights(first), b: merged_weights(second), full: tiny_llama(7).state_dict()}
    update = {
        source: {name: tensor - base[name] for name, tensor in weights.items()}
        for source, weights in tuned.items()
    }
    for text, weights, matrices in (
        (f"{a}@0.5", {a: 0.5}, 2),
        (f"{a}@0.7+{b}@0.3", {a: 0.7, b: 0.3}, 4),
        (f"{a}+{b}@-1e-1", {a: 1.0, b: -0.1}, 4),
        (f"{a}@2+{full}@0.25", {a: 2.0, full: 0.25}, 14),
    ):
        pairing = paired(tiny_llama(), text)
        different = loaded(pairing)
        assert len(different) == matrices
        for name, both in different.items():
            expected = base[name] + sum(weight * update[source][name] for source, weight in weights.items())
            torch.testing.assert_close(tuned_of(both), expected)
        assert pairing.tuned.source == text
    both = paired(tiny_llama(), f"{a}@0.7+{b}@0.3")
    assert [item.rank for item in both.pairs] == [5, 5, 3, 3]
    assert reasons(pairing)["model.norm.weight"] == "one-dimensional"


@pytest.mark.parametrize("method", ["dora", "ia3"])
def test_dora_beside_a_full_checkpoint_acts_on_it(tmp_path: Path, method: str) -> None:
    """What multiplies or normalizes the weight takes the checkpoint's, as PEFT does that trained it on that one."""
    dora = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    ia3 = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    model = with_adapter(dora if method == "dora" else ia3, tiny_llama(7))
    adapter = saved(model, tmp_path / "adapter")
    full, other = saved(tiny_llama(7), tmp_path / "full"), saved(tiny_llama(8), tmp_path / "other")
    base, on, beside = (tiny_llama(seed).state_dict() for seed in (0, 7, 8))
    after = merged_weights(model)
    for text, of_full, of_adapter in (
        (f"{full}+{adapter}", 1.0, 1.0),
        (f"{adapter}+{full}", 1.0, 1.0),
        (f"{full}@0.5+{adapter}@0.25", 0.5, 0.25),
    ):
        pairing = paired(saved(tiny_llama(), tmp_path / "base"), text)
        different = loaded(pairing)
        assert len(different) == 14
        for name, both in different.items():
            expected = base[name] + of_full * (on[name] - base[name]) + of_adapter * (after[name] - on[name])
            torch.testing.assert_close(tuned_of(both), expected)
            assert torch.equal(both.base, base[name])
        assert pairing.base.source == str(tmp_path / "base")
        assert f"'{adapter}' acts on '{full}'" in pairing.matched
    two = differing(tmp_path / "base", f"{full}+{other}+{adapter}")
    for name, both in two.items():
        changed = on[name] + beside[name] - base[name]
        if "q_proj" in name:
            again = tiny_llama()
            again.load_state_dict(base | {name: changed})
            expected = merged_weights(PeftModel.from_pretrained(again, adapter))[name]
        else:
            expected = changed
        torch.testing.assert_close(tuned_of(both), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_in_memory_on_a_model_that_was_trained_before(tmp_path: Path, use_dora: bool) -> None:
    """Against the first base, the model is what it computes: both trainings."""
    model = with_lora(tiny_llama(7), use_dora=use_dora)
    first = saved(tiny_llama(), tmp_path)
    pairing = paired(first, model)
    different = loaded(pairing)
    after = merged_weights(model)
    assert len(different) == 14
    assert_tuned(different, after)
    assert any(note.startswith("the weights in memory beneath the adapter") for note in pairing.matched)


def test_an_adapter_in_memory_on_a_model_whose_embeddings_alone_were_trained_before(tmp_path: Path) -> None:
    model = with_lora()
    first = saved(tiny_llama(), tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    alone = loaded(pair_sides(*open_sides(first, model, with_embeddings=False)))
    assert {both.rank for both in alone.values()} == {2}
    selection = Selection(include_embeddings=True)
    different = differing(first, model, selection)
    after = merged_weights(model)
    assert {name.split(".")[-2] for name in different} == {"q_proj", "embed_tokens"}
    assert_tuned(different, after)


def test_several_active_adapters_are_summed() -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.base_model.set_adapter(["default", "second"])
    randomize_adapter(model)
    assert_tuned(differing(model), merged_weights(model), count=4)


def test_sums_that_cannot_be() -> None:
    for text in ("+a", "a@0.5+", "a@0.5++b@0.5"):
        with refused("expected MODEL@WEIGHT", SettingError):
            open_sides(tiny_llama(), text)


def test_a_tensor_is_taken_or_left_out_for_a_reason() -> None:
    tensors = {
        "model.embed_tokens.weight": (torch.ones(7, 4), "embedding (use --include-embeddings)"),
        "self_attn.q_proj.weight": (torch.ones(4, 4), None),
        "self_attn.k_proj.weight": (torch.ones(2, 4), "excluded"),
        "input_layernorm.weight": (torch.ones(4), "one-dimensional"),
        "mlp.experts.down_proj": (torch.ones(3, 4, 2), None),
        "mlp.experts.down_proj_bias": (torch.ones(3, 4), "one-dimensional"),
        "model.class_token": (torch.ones(1, 1, 4), "one-dimensional"),
        "mlp.counts": (torch.ones(2, 2, dtype=torch.int64), "numbers of type int64"),
        "mlp.empty": (torch.ones(0, 4), "empty"),
    }
    checkpoint = open_checkpoint({name: tensor for name, (tensor, _) in tensors.items()})
    selection = Selection(exclude=("*k_proj*",))
    for name, (_, reason) in tensors.items():
        assert reason_to_skip(name, checkpoint.tensors[name], selection) == reason
    experts = [(f"mlp.experts.down_proj[{number}]", (4, 2)) for number in range(3)]
    taken = [(matrix.name, matrix.shape) for matrix in selected_matrices(checkpoint, selection)]
    assert taken == [("self_attn.q_proj.weight", (4, 4)), *experts]
    some = Selection(include=("*k_proj*",))
    assert reason_to_skip(*list(checkpoint.tensors.items())[1], some) == "not included"
    for pattern in ("*v_proj*", "*layernorm*"):
        with refused(r"include '\*", SettingError):
            require_selection(checkpoint, Selection(include=(pattern,)))
    require_selection(checkpoint, Selection(include=("*q_proj*", "*layernorm*")))


@pytest.mark.parametrize("named", [5, "LlamaForCausalLM", [5], None])
def test_a_damaged_config_names_no_class(named: object) -> None:
    assert not has_head({"architectures": named})
