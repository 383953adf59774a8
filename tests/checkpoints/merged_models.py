"""A base, an adapter and what PEFT merges them to, for the tests of verify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

import intruders
from intruders.checkpoints.merges.verdict import APPLIED

from .models import saved, tiny_llama

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


def merged_by_peft(folder: Path, dtype: torch.dtype, **settings: Any) -> nn.Module:
    """What PEFT merges of the base and the adapter in a folder, which it loads in this type."""
    model = type(wide_llama()).from_pretrained(folder / "base", dtype=dtype)
    merged: nn.Module = peft.PeftModel.from_pretrained(
        model, folder / "adapter", **settings
    ).merge_and_unload()
    return merged


def require_applied(found: intruders.Verification, count: int) -> None:
    assert found.counts == {APPLIED: count}, found.matrices
    assert (found.others, found.exit_status()) == ([], 0)


def verdicts(found: intruders.Verification) -> set[str]:
    return set(found.counts)


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
