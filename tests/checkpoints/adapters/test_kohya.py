"""LoRA files without a config: diffusers' fused weights are the truth, and PEFT's for LyCORIS formulas."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.adapters.kohya import in_diffusers_names
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.open_sides import open_sides
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

TARGETS = ["to_q", "to_out.0", "conv1", "proj_in"]


def tiny_unet(seed: int = 0) -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    )


def adapted_unet(**settings: Any) -> nn.Module:
    unet: Any = tiny_unet()
    unet.add_adapter(peft.LoraConfig(**({"r": 2, "lora_alpha": 3, "target_modules": TARGETS} | settings)))
    randomize_adapter(unet)
    return unet


def fused(unet: Any) -> dict[str, Tensor]:
    """diffusers' own answer, under the names of the plain model."""
    unet.fuse_lora()
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in unet.state_dict().items()
        if "lora" not in name
    }


def require_fused(different: dict[str, Any], unet: nn.Module) -> None:
    truth, base = fused(unet), tiny_unet().state_dict()
    changed = {name for name in base if not torch.equal(base[name], truth[name])}
    assert set(different) == changed
    assert len(changed) > 6
    assert_tuned(different, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_file(tmp_path: Path, dora: bool) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata

    unet = adapted_unet(use_dora=dora)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, peft.get_peft_model_state_dict(unet), **_collate_lora_metadata({"unet": unet})
    )
    pairing = paired(tiny_unet(), tmp_path)
    assert pairing.matched == [f"'unet.' of tuned for '' of base: {len(pairing.pairs)} tensors"]
    require_fused(loaded(pairing), unet)


def kohya_file(unet: nn.Module, path: Path, alpha: float = 3.0) -> dict[str, Tensor]:
    """The names that sd-scripts gives: the module's path with underscores."""
    state: dict[str, Tensor] = {}
    for key, tensor in peft.get_peft_model_state_dict(unet).items():
        module, part = key.rsplit(".lora_", 1)
        name = "lora_unet_" + module.replace(".", "_")
        role = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}.get(part, "dora_scale")
        state[f"{name}.{role}"] = tensor.contiguous()
        state[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(state, path)
    return state


@pytest.mark.parametrize(("dora", "prefix"), [(False, ""), (True, ""), (False, "model.diffusion_model.")])
def test_kohya_file(tmp_path: Path, dora: bool, prefix: str) -> None:
    """Also on the original single-file checkpoint, where the UNet's names have a prefix."""
    unet = adapted_unet(use_dora=dora)
    kohya_file(unet, tmp_path / "style.safetensors")
    base = {f"{prefix}{name}": tensor for name, tensor in tiny_unet().state_dict().items()}
    different = differing(base, tmp_path / "style.safetensors")
    require_fused({name.removeprefix(prefix): both for name, both in different.items()}, unet)


def sgm_names(path: str) -> list[str]:
    """Every module that kohya's SDXL files have, in the original UNet's names."""
    attention = ["proj_in", "transformer_blocks_0_attn1_to_q", "transformer_blocks_0_attn2_to_out_0"]
    resnet = ["in_layers_2", "out_layers_3", "emb_layers_1", "skip_connection"]
    names = []
    for block in range(1, 9):
        names += [f"input_blocks_{block}_0_op"] if block in {3, 6} else []
        names += [f"input_blocks_{block}_0_{part}" for part in resnet if block not in {3, 6}]
        names += [f"input_blocks_{block}_1_{part}" for part in attention if block in {4, 5, 7, 8}]
    for part in (0, 2):
        names += [f"middle_block_{part}_{name}" for name in resnet]
    names += [f"middle_block_1_{name}" for name in attention]
    for block in range(9):
        names += [f"output_blocks_{block}_0_{part}" for part in resnet]
        names += [f"output_blocks_{block}_1_{part}" for part in attention if block < 6]
        names += [f"output_blocks_{block}_2_conv"] if block in {2, 5} else []
    return [f"{path}{name}" for name in names]


def test_original_unet_names_are_what_diffusers_maps_them_to() -> None:
    from diffusers.loaders import lora_conversion_utils as conversion

    settings = type("Config", (), {"layers_per_block": 2})()
    for name in sgm_names(""):
        key = f"lora_unet_{name}.lora_down.weight"
        (mapped,) = conversion._maybe_map_sgm_blocks_to_diffusers({key: 0}, settings)
        # diffusers' older attention processors stand in the name that it makes for them.
        expected = conversion._convert_unet_lora_key(mapped.split(".")[0]).replace(".processor", "")
        ours = in_diffusers_names(name, 2)
        assert ours == expected.removeprefix("unet.").replace(".", "_"), name


def test_kohya_file_in_original_names_on_a_base_of_diffusers() -> None:
    base = {
        "down_blocks.1.attentions.0.proj_in.weight": torch.randn(4, 4),
        "mid_block.resnets.1.conv2.weight": torch.randn(4, 4, 3, 3),
    }
    down, up, kernel = torch.randn(2, 4), torch.randn(4, 2), torch.randn(2, 4, 3, 3)
    state = factors_of("unet_input_blocks_4_1_proj_in", down, up)
    state |= factors_of("unet_middle_block_2_out_layers_3", kernel, up.reshape(4, 2, 1, 1))
    pairing = paired(base, state)
    first, second = base
    truth = {first: base[first] + up @ down, second: product(base[second], kernel, up)}
    assert_tuned(loaded(pairing), truth, count=2)
    assert "2 modules store no alpha: their scale is taken as 1" in pairing.matched


def test_parts_of_a_pipeline_that_are_elsewhere(tmp_path: Path) -> None:
    unet = adapted_unet()
    state = kohya_file(unet, tmp_path / "style.safetensors")
    module = "te_text_model_encoder_layers_0_self_attn_q_proj"
    state |= factors_of(module, torch.ones(2, 8), torch.ones(8, 2))
    save_file(state, tmp_path / "style.safetensors")
    pairing = paired(tiny_unet(), tmp_path / "style.safetensors")
    assert reasons(pairing)[f"lora_{module}.weight"] == "for another part of the pipeline (te)"
    require_fused(loaded(pairing), unet)


@pytest.mark.parametrize(("part", "other"), [("te1", "te2"), ("te2", "te1")])
def test_of_two_text_encoders_the_base_is_the_one_of_its_shapes(part: str, other: str) -> None:
    """SDXL's have modules of the same names, the second one more of them."""
    layers = {"te1": 2, "te2": 3}
    weights: dict[str, dict[str, Tensor]] = {}
    truth: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for encoder, size in (("te1", 8), ("te2", 12)):
        names = [f"text_model.encoder.layers.{layer}.self_attn.q_proj" for layer in range(layers[encoder])]
        weights[encoder] = {f"{name}.weight": torch.randn(size, size) for name in names}
        for name in names:
            down, up = torch.randn(2, size), torch.randn(size, 2)
            state |= factors_of(f"{encoder}_{name.replace('.', '_')}", down, up)
            if encoder == part:
                truth[f"{name}.weight"] = weights[encoder][f"{name}.weight"] + up @ down
    pairing = paired(weights[part], state)
    different = loaded(pairing)
    assert different.keys() == truth.keys()
    assert_tuned(different, truth)
    elsewhere = [name for name, reason in reasons(pairing).items() if reason.endswith(f"pipeline ({other})")]
    assert len(elsewhere) == layers[other]


def test_lora_a_and_b_without_a_config(tmp_path: Path) -> None:
    """Of a head that is saved with its factors, the weight beneath them is the adapter's own."""
    model = with_lora(lora_alpha=2, target_modules=["q_proj", "lm_head"])
    folder = saved(model, tmp_path)
    (folder / "adapter_config.json").unlink()
    opened = open_source(folder)
    assert isinstance(opened, Adapter)
    assert "base_model.model.lm_head.base_layer.weight" in opened.replaced.names()
    assert_tuned(differing(tiny_llama(), folder), merged_weights(model), count=2)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_model_with_an_adapter_that_is_not_merged(tmp_path: Path, where: str) -> None:
    """Its alpha is in no tensor: at scale 1 the update would be a sixteenth of what the model computes with."""
    model = with_lora(lora_alpha=32)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    source = tmp_path if where == "folder" else model.state_dict()
    with refused(r"an adapter that is not merged .*; save the adapter .*, or merge it"):
        open_sides(tiny_llama(), source)


def test_old_diffusers_names() -> None:
    weight = torch.randn(8, 8)
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    base = {"down.attn1.to_q.weight": weight, "down.attn1.to_out.0.weight": weight}
    for middle in (
        "attn1.processor.to_q_lora.{}.weight",
        "attn1.to_q.lora_linear_layer.{}.weight",
        "attn1.to_q.lora.{}.weight",
    ):
        state = {f"unet.down.{middle.format('down')}": down, f"unet.down.{middle.format('up')}": up}
        different = differing(base, state)
        torch.testing.assert_close(tuned_of(different["down.attn1.to_q.weight"]), weight + up @ down)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_lycoris_file(tmp_path: Path, kind: str) -> None:
    make: Any = peft.LoHaConfig if kind == "loha" else peft.LoKrConfig
    model = with_adapter(make(r=1, alpha=3, target_modules=["q_proj", "down_proj"]))
    state: dict[str, Tensor] = {}
    for key, tensor in peft.get_peft_model_state_dict(model).items():
        module, part = key.removeprefix("base_model.model.").rsplit(".", 1)
        name = "lycoris_" + module.replace(".", "_")
        state[f"{name}.{part}"] = tensor.contiguous()
        state[f"{name}.alpha"] = torch.tensor(3.0)
    save_file(state, tmp_path / "x.safetensors")
    different = differing(tiny_llama(), tmp_path / "x.safetensors")
    assert_tuned(different, merged_weights(model), count=4, rtol=1e-5, atol=1e-5)


def test_lokr_of_two_whole_factors_has_scale_one() -> None:
    """LyCORIS sets alpha aside there; PEFT, whose files have a config, does not."""
    first, second, weight = torch.randn(2, 2), torch.randn(2, 3), torch.randn(4, 6)
    state = {"lora_a.lokr_w1": first, "lora_a.lokr_w2": second, "lora_a.alpha": torch.tensor(7.0)}
    both = differing({"a.weight": weight}, state)["a.weight"]
    torch.testing.assert_close(tuned_of(both), weight + torch.kron(first, second))


@pytest.mark.parametrize("beside", ["nothing", "factors"])
def test_a_difference_is_the_update_itself(beside: str) -> None:
    """Files of LyCORIS's algo "full", and extracted ones, store W - W0; those of biases and norms are no matrix."""
    base = {"a.weight": torch.randn(6, 4), "c.weight": torch.randn(5, 3, 2, 2), "n.weight": torch.ones(4)}
    base |= {"b.weight": torch.randn(6, 4), "a.bias": torch.ones(6)}
    state = {"lora_a.diff": torch.randn(6, 4), "lora_c.diff": torch.randn(5, 3, 2, 2)}
    vectors = {"lora_n.w_norm": torch.ones(4), "lora_n.diff": torch.ones(4), "lora_a.diff_b": torch.ones(6)}
    truth = {name: base[name] + state[f"lora_{name[0]}.diff"] for name in ("a.weight", "c.weight")}
    if beside == "factors":
        down, up = torch.randn(2, 4), torch.randn(6, 2)
        state |= factors_of("b", down, up) | {"lora_a.alpha": torch.tensor(7.0)}
        truth["b.weight"] = base["b.weight"] + up @ down
    pairing = paired(base, state | vectors)
    different = loaded(pairing)
    assert different.keys() == truth.keys()
    assert_tuned(different, truth)
    assert {name: reasons(pairing)[name] for name in vectors} == dict.fromkeys(
        vectors, "changes a bias or a norm"
    )


def factors_of(module: str, down: Tensor, up: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """The tensors of a module's LoRA as sd-scripts names them."""
    parts = {"lora_down.weight": down, "lora_up.weight": up, **more}
    return {f"lora_{module}.{part}": tensor for part, tensor in parts.items()}


def drawn(inputs: int, outputs: int, *kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, and the factors of its LoRA of rank 2."""
    up = torch.randn(outputs, 2, *(1 for _ in kernel))
    return torch.randn(outputs, inputs, *kernel), torch.randn(2, inputs, *kernel), up


def product(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return weight + (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def scaled_as_lycoris(weight: Tensor, scale: Tensor) -> Tensor:
    """``apply_weight_decompose`` of LyCORIS with ``wd_on_out=False``."""
    norm = weight.transpose(0, 1).flatten(1).norm(dim=1)
    return weight * (scale / norm.reshape(scale.shape))


@pytest.mark.parametrize("other", [(), (3, 3)], ids=["a linear layer", "another convolution"])
def test_lycoris_dora_scale_over_the_inputs(other: tuple[int, ...]) -> None:
    """(1, in), or (1, in, 1, 1) of a convolution. With as many inputs as outputs the others in the file tell."""
    base, state, truth = {}, {}, {}
    for name, (weight, down, up) in (("a", drawn(8, 8, 3, 3)), ("b", drawn(4, 6, *other))):
        scale = torch.rand(1, *weight.shape[1:2], *(1 for _ in weight.shape[2:])) + 0.5
        base[f"{name}.weight"] = weight
        state |= factors_of(name, down, up, dora_scale=scale)
        truth[f"{name}.weight"] = scaled_as_lycoris(product(weight, down, up), scale)
    assert_tuned(differing(base, state), truth, count=2)


@pytest.mark.parametrize(("name", "is_refused"), [("dora_scale", True), ("lora_magnitude_vector", False)])
def test_a_square_convolution_alone(name: str, is_refused: bool) -> None:
    """PEFT stores the magnitudes of outputs in the same shape, under its own name or converted."""
    weight, down, up = drawn(8, 8, 3, 3)
    scale = torch.rand(1, 8, 1, 1) + 0.5
    state = factors_of("a", down, up, **{name: scale})
    if is_refused:
        with refused("as many inputs as outputs, and nothing in the file says"):
            open_sides({"a.weight": weight}, state)
        linear = {name: factors_of(name, *drawn(4, 6)[1:]) for name in "bc"}
        linear["b"]["lora_b.dora_scale"], linear["c"]["lora_c.dora_scale"] = torch.ones(6), torch.ones(1, 4)
        with refused("as many inputs as outputs"):  # the others in the file say both
            open_sides({"a.weight": weight}, state | linear["b"] | linear["c"])
        return
    direction = product(weight, down, up).flatten(1)
    truth = direction * scale.reshape(8, 1) / direction.norm(dim=1, keepdim=True)
    assert_tuned(differing({"a.weight": weight}, state), {"a.weight": truth})


def test_lycoris_dora_scale_of_a_hadamard_product_over_the_inputs_of_a_convolution() -> None:
    weight, scale = torch.randn(8, 8, 3, 3), torch.rand(1, 8, 1, 1) + 0.5
    parts = {f"hada_w{number}_a": torch.randn(8, 2) for number in "12"}
    parts |= {f"hada_w{number}_b": torch.randn(2, 72) for number in "12"}
    state = {f"lora_a.{part}": tensor for part, tensor in parts.items()} | {"lora_a.dora_scale": scale}
    both = differing({"a.weight": weight}, state)["a.weight"]
    delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    truth = scaled_as_lycoris(weight + delta.reshape(weight.shape), scale)
    torch.testing.assert_close(tuned_of(both), truth.flatten(1))
    with refused(r"dora_scale of shape \(5, 1, 1, 1\) for 'lora_a'"):
        open_sides({"a.weight": weight}, state | {"lora_a.dora_scale": torch.rand(5, 1, 1, 1)})


BOTH = {"lora_a.lora_down.weight": torch.ones(2, 4), "lora_a.lora_up.weight": torch.ones(4, 2)}
WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "one factor": ({"lora_a.lora_down.weight": torch.ones(2, 4)}, "expected both factors"),
    "ranks that differ": (
        BOTH | {"lora_a.lora_up.weight": torch.ones(4, 3)},
        r"expected \(r, in\) and \(out, r\)",
    ),
    "an alpha of four numbers": (BOTH | {"lora_a.alpha": torch.ones(4)}, "expected one number"),
    "an infinite alpha": (BOTH | {"lora_a.alpha": torch.tensor(float("inf"))}, "expected a number"),
    "a dora_scale of neither side": (BOTH | {"lora_a.dora_scale": torch.ones(1, 5)}, "expected 4 numbers"),
    "a Tucker core": (BOTH | {"lora_a.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "Tucker decomposition"),
    "a difference beside factors": (BOTH | {"lora_a.diff": torch.ones(4, 4)}, "a diff beside the factors"),
    "half of a Hadamard product": (
        {"lora_a.hada_w1_a": torch.ones(4, 2), "lora_a.hada_w1_b": torch.ones(2, 4)},
        "lacks hada_w2 or its two factors",
    ),
    "half of a Kronecker product": ({"lora_a.lokr_w1": torch.ones(2, 2)}, "lacks lokr_w2"),
    "a product of one dimension": (
        {"lora_a.lokr_w1": torch.ones(2), "lora_a.lokr_w2": torch.ones(2, 2)},
        "has factors for 'lora_a' that do not multiply: ",
    ),
}


@pytest.mark.parametrize(("state", "text"), WRONG.values(), ids=WRONG.keys())
def test_files_that_cannot_be(state: dict[str, Tensor], text: str) -> None:
    with refused(text):
        open_sides({"a.weight": torch.ones(4, 4)}, state)


def test_metadata_that_is_no_object(tmp_path: Path) -> None:
    state = {"unet.a.lora_A.weight": torch.ones(2, 4), "unet.a.lora_B.weight": torch.ones(4, 2)}
    wrong = json.dumps({"unet.r": "two", "unet.lora_alpha": 1})
    for text, said in (
        ("[", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        (wrong, "r = 'two'; expected a number"),
    ):
        save_file(state, tmp_path / "x.safetensors", {"lora_adapter_metadata": text})
        with refused(said):
            open_sides({"a.weight": torch.ones(4, 4)}, tmp_path / "x.safetensors")
