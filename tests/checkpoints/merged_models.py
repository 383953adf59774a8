"""A base, an adapter and what PEFT merges them to, for the tests of verify."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
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


def save_both(folder: Path, model: nn.Module, base: str = "float32", **settings: Any) -> None:
    """Save the adapter of a model, and the tiny Llama that it is on."""
    saved(wide_llama(**settings).to(TYPES[base]), folder / "base")
    saved(model, folder / "adapter")


def verify(folder: Path, merged: Any, **settings: Any) -> intruders.Verification:
    return intruders.verify(folder / "base", folder / "adapter", merged, **settings)


def weights(model: nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class Models:
    """A base and an adapter on disk, what PEFT merges them to, and what can go wrong with it."""

    def __init__(self, folder: Path, config: peft.PeftConfig, base: str = "float32", **settings: Any) -> None:
        self.folder = folder
        model = adapted(config, base, **settings)
        self.base = weights(wide_llama(**settings).to(TYPES[base]))
        save_both(folder, model, base, **settings)
        self.merged = weights(model.merge_and_unload())

    def verify(self, merged: State | Path, **settings: Any) -> intruders.Verification:
        return verify(self.folder, merged, **settings)


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


def with_delta(models: Models, change: Callable[[Tensor], Tensor]) -> State:
    """A merge in which the update of every matrix was changed, in the type of the base."""
    updates = lora_updates(models.folder)
    changed = {
        name: (before.float() + change(6 / 4 * updates[name])).to(before.dtype)
        for name, before in models.base.items()
        if name in WEIGHTS
    }
    return models.base | changed


def lora_updates(folder: Path) -> State:
    factors = load_file(folder / "adapter" / "adapter_model.safetensors")
    stems = {name: "base_model.model." + name.removesuffix(".weight") for name in WEIGHTS}
    return {
        name: factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
        for name, stem in stems.items()
    }
