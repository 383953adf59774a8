"""Tiny GGUF files as llama.cpp's converter would lay them out, with random numbers in them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

# Architecture -> transformers' model type, and settings beyond those that all have. What transformers does
# not read from a GGUF file (Qwen3's head size, GPT-2's positions, the experts' size) is its default here, as
# it has to be.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),
    "gemma2": ("gemma2", {"head_dim": 8}),
    "gemma3": ("gemma3_text", {"head_dim": 8}),
    "phi3": ("phi3", {"pad_token_id": 0}),
    "gpt2": ("gpt2", {"n_positions": 1024}),
    "qwen2moe": ("qwen2_moe", {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 1408}),
    "qwen3moe": (
        "qwen3_moe",
        {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 768, "head_dim": 8},
    ),
}


def skeleton(family: str, hidden: int = 32, tied: bool = False, **settings: Any) -> nn.Module:
    """A tiny model of the family, for its names and shapes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, extra = FAMILIES[family]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if family != "gpt2" else 4,
        **({} if family == "gpt2" else {"max_position_embeddings": 64}),
        tie_word_embeddings=tied,
        **({"shared_expert_intermediate_size": 5632} if family == "qwen2moe" else {}),
        **(extra | settings),
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def finished(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Write what a writer was given, and close its file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(
    writer: gguf.GGUFWriter, sizes: tuple[int, int, int], heads: int | None, kv_heads: int | None
) -> None:
    hidden, inner, layers = sizes
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    if heads is not None:
        writer.add_head_count(heads)
    if kv_heads is not None:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)


def write_gguf(
    path: Path,
    family: str,
    kind: str = "F32",
    hidden: int = 32,
    tied: bool = False,
    tokens: int | None = None,
    each: int = 0,
    **settings: Any,
) -> Path:
    """A whole file of the family; matrices are stored as ``kind``, vectors as F32.

    With a number of ``tokens`` their list alone says how many there are. With ``each`` the model is split into files of
    that many tensors, and their numbers and their count are put into the name.
    """
    model: Any = skeleton(family, hidden, tied, **settings)
    config = model.config
    writer = gguf.GGUFWriter(path, family, split_max_tensors=each)
    _add_sizes(writer, (hidden, 2 * hidden, 2), 4, config.num_key_value_heads if family != "gpt2" else 4)
    if tokens is None:
        writer.add_vocab_size(64)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_dimension_count(hidden // 4)
    writer.add_sliding_window(32)
    if "head_dim" in FAMILIES[family][1]:
        writer.add_key_length(8)
        writer.add_value_length(8)
    if "moe" in family:
        writer.add_expert_count(3)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_pad_token_id(0)
    writer.add_token_list([f"t{index}" for index in range(tokens or 64)])
    generator = np.random.default_rng(0)
    for name, shape in _tensors(model, family):
        _add(writer, name, shape, kind if len(shape) > 1 else "F32", generator)
    return finished(writer, path)


def write_llama_gguf(
    path: Path,
    model: Any,
    weights: dict[str, torch.Tensor],
    kind: str,
    *,
    kv_heads: bool = True,
    heads: bool = True,
    others: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
) -> Path:
    """A Llama's own weights as llama.cpp's converter stores them: rotary rows turned, matrices as ``kind``.

    ``heads`` and ``kv_heads`` say whether their numbers are in the file; ``others`` are put into it as they are.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    own_heads = config.num_attention_heads if heads else None
    _add_sizes(writer, sizes, own_heads, config.num_key_value_heads if kv_heads else None)
    writer.add_vocab_size(config.vocab_size)
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    quantization = gguf.GGMLQuantizationType[kind]
    for name, tensor in weights.items():
        numbers = tensor.float().numpy()
        for part, heads in (
            ("q_proj.weight", config.num_attention_heads),
            ("k_proj.weight", config.num_key_value_heads),
        ):
            if name.endswith(part):
                halves = numbers.reshape(heads, 2, -1, numbers.shape[1])
                numbers = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(numbers.shape))
        found = names.get_name(name, try_suffixes=(".weight",))
        if numbers.ndim == 1:
            writer.add_tensor(found, numbers)
        else:
            writer.add_tensor(found, gguf.quants.quantize(numbers, quantization), raw_dtype=quantization)
    for name, other in others.items():
        writer.add_tensor(name, other)
    return finished(writer, path)


def _tensors(model: nn.Module, family: str) -> list[tuple[str, tuple[int, ...]]]:
    """llama.cpp's names and shapes for the model's tensors."""
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family)
    names = gguf.get_tensor_name_map(architecture, 2)
    result = []
    tied = model.config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        shape = tuple(tensor.shape)
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            half = (shape[0], shape[1] // 2, shape[2])
            result += [(f"blk.{block}.ffn_gate_exps.weight", half), (f"blk.{block}.ffn_up_exps.weight", half)]
            continue
        if name.endswith("experts.down_proj"):
            result.append((f"blk.{name.split('.')[2]}.ffn_down_exps.weight", shape))
            continue
        base, _, end = name.rpartition(".")
        found = names.get_name(base.removeprefix("transformer."))
        found = found or names.get_name(base)
        if found is None:
            continue
        if family == "gpt2" and any(part in name for part in ("c_attn.w", "c_proj.w", "c_fc.w")):
            shape = shape[::-1]
        if name.endswith("shared_expert_gate.weight"):
            shape = shape[1:]
        result.append((f"{found}.{end}", shape))
    return result


def _add(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: str, generator: Any) -> None:
    quantization = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        writer.add_tensor(name, generator.standard_normal(shape, dtype=np.float32))
        return
    size = gguf.quants.quant_shape_to_byte_shape(shape, quantization)
    # Any bytes are a valid block of any quantization; what they mean is the de-quantizer's business.
    data = generator.integers(0, 60, size, dtype=np.uint8)
    writer.add_tensor(name, data, raw_dtype=quantization)
