"""An adapter that PEFT saved, in the files of other programs as these write them; PEFT's merge is the truth."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .gguf_files import finished
from .models import merged_weights, saved, with_lora

_PREFIX = "base_model.model."


def peft_lora(folder: Path, model: nn.Module, **settings: Any) -> dict[str, Tensor]:
    """Save a model and a LoRA on it, in ``base`` and ``peft`` of the folder; the weights of PEFT's merge."""
    saved(model, folder / "base")
    wrapped = with_lora(model, **{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings})
    saved(wrapped, folder / "peft")
    return merged_weights(wrapped)


def save_as_mlx(folder: Path, **changes: Any) -> Path:
    """The adapter in ``peft`` as mlx_lm.lora saves it: ``lora_a`` (in, r), ``lora_b`` (r, out), DoRA's ``m`` (out).

    After LoRALinear, DoRALinear (mlx_lm/tuner/lora.py, dora.py) and save_config of
    https://github.com/ml-explore/mlx-lm at d78bf58e; ``changes`` are of the config.
    """
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    tensors = {}
    for name, tensor in load_file(folder / "peft" / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        named = {"A": ".lora_a", "B": ".lora_b", "magnitude_vector": ".m"}[part]
        tensors[module + named] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
    target = folder / "mlx"
    target.mkdir()
    save_file(tensors, target / "adapters.safetensors", metadata={"format": "mlx"})
    settings = {
        "fine_tune_type": "dora" if config["use_dora"] else "lora",
        "model": str(folder / "base"),
        "num_layers": 2,
        "lora_parameters": {"rank": config["r"], "scale": config["lora_alpha"] / config["r"], "dropout": 0.0},
    }
    (target / "adapter_config.json").write_text(json.dumps(settings | changes))
    return target


def save_as_gguf(folder: Path, architecture: str = "llama", alpha: float | None = None) -> Path:
    """The adapter in ``peft`` as llama.cpp's converter saves it: B turned as q and k are, an embedding's A transposed.

    After convert_lora_to_gguf.py and LlamaModel.permute of https://github.com/ggml-org/llama.cpp at 0b03adaa.
    """
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    sizes = json.loads((folder / "base" / "config.json").read_text())
    writer = gguf.GGUFWriter(folder / "lora.gguf", architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", config["lora_alpha"] if alpha is None else alpha)
    writer.add_string("general.base_model.0.repo_url", "https://huggingface.co/org/base")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes["num_hidden_layers"])
    heads = {"q_proj": sizes["num_attention_heads"], "k_proj": sizes["num_key_value_heads"]}
    for name, tensor in load_file(folder / "peft" / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        if not module:  # the weight beneath an embedding's factors
            continue
        numbers = tensor.numpy()
        count = heads.get(module.rpartition(".")[2])
        if count and part == "B" and architecture == "llama":
            numbers = numbers.reshape(count, 2, -1, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
        if part == "embedding_A":
            numbers = numbers.T
        found = f"{names.get_name(module)}.weight.lora_{part[-1].lower()}"
        writer.add_tensor(found, np.ascontiguousarray(numbers))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(sizes["hidden_size"], np.float32))
    return finished(writer, folder / "lora.gguf")
