"""Quantized bases: against the library that wrote them, or against packing done by hand in this file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.checkpoint import Checkpoint
from tests.checkpoints.models import (
    change_config,
    differing,
    packed_rows,
    paired,
    refused,
    saved,
    tiny_llama,
    tuned_of,
    with_config,
    with_lora,
)

NAME = "model.layers.0.self_attn.q_proj"


def wide_llama() -> nn.Module:
    return tiny_llama(hidden_size=64, intermediate_size=128)


def quantized_by_bitsandbytes(folder: Path, kind: str) -> nn.Module:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": kind[:3]}
    four["bnb_4bit_use_double_quant"] = kind.endswith("doubly")
    settings = {"load_in_8bit": True} if kind == "int8" else four
    return AutoModelForCausalLM.from_pretrained(
        saved(wide_llama(), folder / "plain"),
        quantization_config=BitsAndBytesConfig(**settings),
        dtype=torch.float32,
    )


def by_the_library(module: nn.Module) -> Tensor:
    """The weight as bitsandbytes itself restores it."""
    import bitsandbytes

    weight: Any = module.weight
    if hasattr(weight, "quant_state"):
        return bitsandbytes.functional.dequantize_4bit(weight, weight.quant_state).float()
    return bitsandbytes.functional.int8_vectorwise_dequant(weight, weight.SCB).float()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4, doubly", "int8"])
def test_bitsandbytes(tmp_path: Path, kind: str) -> None:
    model = quantized_by_bitsandbytes(tmp_path, kind)
    on_disk, in_memory = open_checkpoint(saved(model, tmp_path / "q")), open_checkpoint(model)
    plain = open_checkpoint(tmp_path / "plain")
    assert on_disk.names() == plain.names()
    assert in_memory.names() == list(wide_llama().state_dict())
    for name in plain.names():
        assert on_disk.shape(name) == in_memory.shape(name) == plain.shape(name)
    for name, module in model.named_modules():
        if "proj" in name:
            truth = by_the_library(module)
            torch.testing.assert_close(on_disk.read(f"{name}.weight"), truth, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(in_memory.read(f"{name}.weight"), truth, rtol=1e-5, atol=1e-6)


def test_bitsandbytes_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """Blocks run on over the ends of rows. (bitsandbytes 0.50's own CPU kernel restores such weights wrongly,
    so the truth is what it restores of the same numbers in rows of a whole block.)"""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, 96)
    codes, state = quantize_4bit(weight.reshape(96, 64), quant_type="nf4", blocksize=64)
    truth = dequantize_4bit(codes, state).reshape(64, 96)
    _, state = quantize_4bit(weight, quant_type="nf4", blocksize=64)
    tensors = {"a.weight": codes} | {
        f"a.weight.{part}": value for part, value in state.as_dict(packed=True).items()
    }
    torch.testing.assert_close(read_quantized(tmp_path, tensors, "bitsandbytes").read("a.weight"), truth)


def test_qlora_adapter_on_either_base_and_it_is_said_which_one_it_was_trained_on(tmp_path: Path) -> None:
    model = quantized_by_bitsandbytes(tmp_path, "nf4")
    plain, quantized = tmp_path / "plain", saved(model, tmp_path / "q")
    tuned = with_lora(model)
    adapter = saved(tuned, tmp_path / "adapter")
    restored = by_the_library(model.model.layers[0].self_attn.q_proj.base_layer)
    module = tuned.base_model.model.model.layers[0].self_attn.q_proj
    delta = module.get_delta_weight("default")
    original = wide_llama().state_dict()[f"{NAME}.weight"]
    for base, weight in ((quantized, restored), (plain, original), (None, restored)):
        different = differing(base, tuned if base is None else adapter)
        assert len(different) == 2
        torch.testing.assert_close(different[f"{NAME}.weight"].base, weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            tuned_of(different[f"{NAME}.weight"]), weight + delta, rtol=1e-5, atol=1e-5
        )

    def notes(named: Path | str, base: Path) -> list[str]:
        change_config(adapter, base_model_name_or_path=str(named))
        return [note for note in paired(base, adapter).matched if "quantized" in note]

    for named in (quantized, "unsloth/Llama-3.2-1B-bnb-4bit", "org/model-GPTQ"):
        assert "and is measured on the original ones of" in notes(named, plain)[0]
        assert notes(named, quantized)[0].endswith("de-quantized on read, as the adapter was trained")
    assert notes(plain, plain) == []
    assert notes("org/model-habit", plain) == []
    assert "does not record whether it was trained on these" in notes(plain, quantized)[0]


def test_bitsandbytes_parts_that_lie(tmp_path: Path) -> None:
    folder = saved(quantized_by_bitsandbytes(tmp_path, "nf4"), tmp_path / "q")
    tensors = load_file(folder / "model.safetensors")
    key = f"{NAME}.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[key].tolist()))
    for change, text in (
        ({"shape": [2**20, 2**20]}, "codes"),
        ({"shape": [-64, -64]}, "shape"),
        ({"shape": "64"}, "shape"),
        ({"blocksize": 0}, "blocksize"),
        ({"blocksize": 32}, "absmax and quant_map"),
        ({"nested_offset": "1"}, "nested_offset"),
    ):
        lie = torch.tensor(list(json.dumps(state | change).encode()), dtype=torch.uint8)
        save_file(tensors | {key: lie}, folder / "model.safetensors")
        with refused(rf"do not fit together \({text}\); download"):
            open_checkpoint(folder)


def read_quantized(folder: Path, tensors: dict[str, Tensor], method: str, **settings: Any) -> Checkpoint:
    """Open a folder of these tensors, whose config names the method, with its settings."""
    return open_checkpoint(
        with_config(folder, tensors, {"quantization_config": {"quant_method": method, **settings}})
    )


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path: Path, bits: int, version: str) -> None:
    """Of a model of 4 bits, whose modules may have bits of their own (``dynamic``). The length of ``g_idx`` tells."""
    torch.manual_seed(bits)
    inputs, outputs, groups = 64, 32, 4
    codes = torch.randint(2**bits, (outputs, inputs))
    zeros = torch.randint(1, 2**bits, (groups, outputs))
    scales = torch.rand(groups, outputs).half()
    index = torch.randint(groups, (inputs,), dtype=torch.int32)  # as with desc_act
    tensors = {
        "a.qweight": packed_rows(codes.tolist(), bits).T,
        "a.qzeros": packed_rows((zeros - int(version == "gptq")).tolist(), bits),
        "a.scales": scales,
        "a.g_idx": index,
        "a.bias": torch.zeros(outputs),
    }
    checkpoint = read_quantized(tmp_path, tensors, "gptq", bits=4, checkpoint_format=version)
    assert set(checkpoint.names()) == {"a.weight", "a.bias"}
    weight = checkpoint.read("a.weight")
    for output, place in ((0, 0), (31, 63), (7, 20)):
        group = int(index[place])
        expected = float(scales[group, output]) * (int(codes[output, place]) - int(zeros[group, output]))
        assert weight[output, place].item() == pytest.approx(expected)


def test_awq(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, outputs, groups = 12, 16, 3
    codes, zeros = torch.randint(16, (inputs, outputs)), torch.randint(16, (groups, outputs))
    scales = torch.rand(groups, outputs).half()

    def interleaved(values: Tensor) -> Tensor:
        """llm-awq's packing: of every eight outputs, those at 0, 2, 4, 6, 1, 3, 5, 7, one after the other."""
        picked = values.reshape(values.shape[0], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return packed_rows(picked.flatten(1).tolist(), 4)

    tensors = {"a.qweight": interleaved(codes), "a.qzeros": interleaved(zeros), "a.scales": scales}
    weight = read_quantized(tmp_path, tensors, "awq", bits=4).read("a.weight")
    expected = (codes - zeros.repeat_interleave(4, 0)).float() * scales.float().repeat_interleave(4, 0)
    torch.testing.assert_close(weight, expected.T)


def scheme_of(**arguments: Any) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))


def require_decompressed(
    folder: Path, compressor: str, parts: dict[str, Tensor], scheme: Any, is_in_config: bool = True
) -> dict[str, Tensor]:
    """What is read of the parts that a compressor of the library makes is what it decompresses; return the parts."""
    from compressed_tensors.compressors import BaseCompressor

    library = BaseCompressor.get_value_from_registry(compressor)
    compressed = library.compress(parts, scheme)
    truth = library.decompress(dict(compressed), scheme)["weight"].float()
    tensors = {f"a.{part}": tensor for part, tensor in compressed.items()}
    groups = {"config_groups": {"group_0": json.loads(scheme.model_dump_json())}}  # as the library writes it
    checkpoint = read_quantized(folder, tensors, "compressed-tensors", **(groups if is_in_config else {}))
    assert checkpoint.names() == ["a.weight"]
    torch.testing.assert_close(checkpoint.read("a.weight"), truth)
    return tensors


@pytest.mark.parametrize(
    ("inputs", "bits", "group", "symmetric", "is_in_config"),
    [
        *(
            (64, bits, group, same, False)
            for bits, group in ((4, 32), (8, 64), (3, 32))
            for same in (True, False)
        ),
        # Few inputs, whose words could hold other bits too, and one scale for the tensor.
        (10, 4, 10, True, True),
        (16, 3, 16, False, True),
        (64, 4, None, True, True),
        (64, 4, None, False, True),
    ],
)
def test_compressed_tensors_packed(
    tmp_path: Path, inputs: int, bits: int, group: int | None, symmetric: bool, is_in_config: bool
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, inputs)
    strategy = {None: "tensor", inputs: "channel"}.get(group, "group")
    size = group if strategy == "group" else None
    scheme = scheme_of(num_bits=bits, symmetric=symmetric, strategy=strategy, group_size=size)
    largest = weight.reshape(16, -1, group).abs().amax(-1) if group else weight.abs().amax().reshape(1)
    parts = {"weight": weight, "weight_scale": largest / 2 ** (bits - 1)}
    if not symmetric:
        parts["weight_zero_point"] = torch.randint(-2, 2, largest.shape, dtype=torch.int8)
    tensors = require_decompressed(tmp_path, "pack-quantized", parts, scheme, is_in_config)
    if inputs < 31:
        with refused(r"'a.weight_packed' may have .* or .* bits a number; pass"):
            read_quantized(tmp_path, tensors, "compressed-tensors")


@pytest.mark.parametrize("rows", [192, 448, 576, 960])
def test_fp8_in_blocks_of_compressed_tensors(tmp_path: Path, rows: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(rows, 200) * torch.rand(rows, 1)
    scheme = scheme_of(num_bits=8, type="float", strategy="block", block_structure=[128, 128])
    largest = [torch.stack([part.abs().max() for part in row.split(128, 1)]) for row in weight.split(128)]
    parts = {"weight": weight, "weight_scale": torch.stack(largest) / 448}
    require_decompressed(tmp_path, "float-quantized", parts, scheme)


def test_mxfp8_of_compressed_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    scheme = scheme_of(num_bits=8, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8)
    scale = torch.exp2(torch.ceil(torch.log2(weight.reshape(64, 2, 32).abs().amax(-1) / 448)))
    parts = {"weight": weight, "weight_scale": scale}
    require_decompressed(tmp_path, "mxfp8-quantized", parts, scheme)


def test_exponents_are_what_transformers_makes_of_them(tmp_path: Path) -> None:
    """Also torch's own E8M0, which safetensors writes as F8_E8M0."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes = torch.randn(16, 64).to(torch.float8_e4m3fn)
    exponents = torch.randint(100, 140, (16, 2), dtype=torch.uint8)
    truth = Fp8Dequantize(None)._dequantize_one(codes, exponents, torch.float32)
    for scale in (exponents, exponents.view(torch.float8_e8m0fnu)):
        tensors = {"a.weight": codes, "a.weight_scale_inv": scale}
        opened = read_quantized(tmp_path, tensors, "fp8", scale_fmt="ue8m0", weight_block_size=[1, 32])
        assert torch.equal(opened.read("a.weight"), truth)


PACKED = {"quantization_config": {"quant_method": "compressed-tensors"}}


@pytest.mark.parametrize(
    "config", [{"text_config": PACKED}, {**PACKED, "text_config": {"quantization_config": "not this one"}}]
)
def test_the_quantization_is_that_of_the_config_and_then_of_the_language_model_in_it(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """As transformers takes it; the weights would stay words of 32 bits otherwise."""
    codes = torch.randint(16, (8, 32))
    tensors = {
        "a.weight_packed": packed_rows(codes.tolist(), 4),
        "a.weight_scale": torch.ones(8, 1),
        "a.weight_shape": torch.tensor([8, 32]),
    }
    opened = open_checkpoint(with_config(tmp_path, tensors, config))
    assert torch.equal(opened.read("a.weight"), (codes - 8).float())


@pytest.mark.parametrize("shape", [(), (1,), (24, 1), (24,), (24, 4)])
def test_fp8_with_scales(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = torch.randn(24, 32).to(torch.float8_e4m3fn)
    scale = torch.rand(shape) + 0.5
    tensors = {"a.weight": codes, "a.weight_scale": scale}
    weight = read_quantized(tmp_path, tensors, "compressed-tensors").read("a.weight")
    wide = scale.reshape(24, 1) if scale.shape == (24,) else scale
    expected = codes.float() * (wide.repeat_interleave(8, 1) if wide.shape == (24, 4) else wide)
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fp8", {"weight_block_size": [8, 16]}),
        # As compressed-tensors once wrote it.
        ("compressed-tensors", {"config_groups": {"group_0": {"weights": {"block_structure": "8x16"}}}}),
    ],
)
def test_fp8_in_blocks_that_do_not_divide(tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    codes, scale = torch.randn(20, 30).to(torch.float8_e4m3fn), torch.rand(3, 2)
    tensors = {"a.weight": codes, "a.weight_scale_inv": scale}
    weight = read_quantized(tmp_path, tensors, method, **settings).read("a.weight")
    rows, columns = torch.arange(20) // 8, torch.arange(30) // 16
    torch.testing.assert_close(weight, codes.float() * scale[rows][:, columns])
    with refused("has a scale of shape"):
        read_quantized(tmp_path, tensors, "fp8")


def test_int8_of_compressed_tensors_with_zero_points(tmp_path: Path) -> None:
    codes = torch.randint(-128, 128, (6, 8), dtype=torch.int8)
    scale, zero = torch.rand(6, 1), torch.randint(-8, 8, (6, 1), dtype=torch.int8)
    tensors = {"a.weight": codes, "a.weight_scale": scale, "a.weight_zero_point": zero}
    weight = read_quantized(tmp_path, tensors, "compressed-tensors").read("a.weight")
    torch.testing.assert_close(weight, (codes.float() - zero.float()) * scale)


def test_fp8_without_a_scale_is_widened(tmp_path: Path) -> None:
    weight = torch.randn(4, 4).to(torch.float8_e5m2)
    save_file({"a.weight": weight}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.dtype("a.weight") == torch.float32
    assert torch.equal(checkpoint.read("a.weight"), weight.float())


def test_mxfp4_of_gpt_oss(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(256, (3, 64, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 64, 2), dtype=torch.uint8)
    tensors = {"mlp.experts.gate_up_proj_blocks": blocks, "mlp.experts.gate_up_proj_scales": scales}
    checkpoint = read_quantized(tmp_path, tensors, "mxfp4")
    truth = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert checkpoint.names() == ["mlp.experts.gate_up_proj"]
    assert torch.equal(checkpoint.read("mlp.experts.gate_up_proj"), truth)
    assert torch.equal(checkpoint.tensors["mlp.experts.gate_up_proj"].read_slice(2), truth[2])


def test_methods_that_are_not_read_are_named(tmp_path: Path) -> None:
    methods: list[Any] = ["aqlm", "hqq", "quip", 7]
    for method in methods:
        with refused(f"quantized with '{method}', which is not .*pass the original base"):
            read_quantized(tmp_path, {"a.weight": torch.zeros(2, 2)}, method)


def test_parts_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    full = {
        "a.qweight": torch.zeros(8, 32, dtype=torch.int32),
        "a.qzeros": torch.zeros(2, 4, dtype=torch.int32),
        "a.scales": torch.zeros(2, 32),
        "a.g_idx": torch.zeros(64, dtype=torch.int32),
    }
    wrong = {
        "a.qzeros": torch.zeros(2, 5, dtype=torch.int32),
        "a.scales": torch.zeros(2, 31),
        "a.g_idx": torch.zeros(63, dtype=torch.int32),
    }
    for part, tensor in wrong.items():
        tensors = full | {part: tensor}
        with refused("do not fit together"):
            read_quantized(tmp_path, tensors, "gptq", bits=4)
        del tensors[part]
        with refused(f"lacks {part.removeprefix('a.')}"):
            read_quantized(tmp_path, tensors, "gptq", bits=4)
    tensors = full | {"a.g_idx": torch.full((64,), 9, dtype=torch.int32)}
    checkpoint = read_quantized(tmp_path, tensors, "gptq", bits=4)
    with refused(r"do not fit together \(g_idx\)"):
        checkpoint.read("a.weight")
