"""Fine-tuned models with intruders, made by code, and the paper's formula by dense decompositions."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from intruders.audits.audit import audited_whole
from intruders.audits.audit_settings import AS_USUAL, Compute
from intruders.checkpoints.opening.model_sum import parts_of
from intruders.checkpoints.pairing.names_of_base import under_common_names
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.mitigation_result import Mitigation
from intruders.mitigation.tuned_matrices import TunedMatrices
from tests.checkpoints.models import merged_weights, saved, tiny_llama


def hot_llama(seed: int = 0, gain: float = 1.5, model: nn.Module | None = None, **settings: Any) -> nn.Module:
    """A PeftModel whose update outweighs the base in every matrix: its leading directions are intruders."""
    values = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear"}
    peft = get_peft_model(model or tiny_llama(seed), LoraConfig(**(values | settings)))
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in peft.modules():
        if not hasattr(layer, "lora_A"):
            continue
        base = layer.base_layer.weight
        for down, up in ((layer.lora_A, layer.lora_B), (layer.lora_embedding_A, layer.lora_embedding_B)):
            for name in down:
                a, b = (getattr(part[name], "weight", part[name]) for part in (down, up))
                a.data = torch.randn(a.shape, generator=generator).to(a.dtype)
                b.data = torch.randn(b.shape, generator=generator).to(b.dtype)
                size = torch.linalg.matrix_norm(b.data.flatten(1).float() @ a.data.flatten(1).float(), 2)
                wanted = gain * torch.linalg.matrix_norm(base.data.flatten(1).float(), 2)
                b.data *= (wanted / (size * layer.scaling[name])).to(b.dtype)
    return peft.eval()


def hot_sides(
    folder: Path, base: nn.Module | None = None, **settings: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Save a base and a hot adapter of it; their weights, as PEFT merges the adapter."""
    base = tiny_llama() if base is None else base
    model = hot_llama(model=copy.deepcopy(base), **settings)
    saved(base, folder / "base")
    saved(model, folder / "tuned")
    return {name: tensor.clone() for name, tensor in base.state_dict().items()}, merged_weights(model)


def assert_share(
    found: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    share: float,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """``W0 + s (W - W0)`` of every tensor, in double precision."""
    for name, tensor in before.items():
        wanted = tensor.double() + share * (after[name].double() - tensor.double())
        torch.testing.assert_close(found[name].double(), wanted, rtol=rtol, atol=atol, msg=name)


def matrices_of(base: Any, tuned: Any, audit: Any = AS_USUAL) -> TunedMatrices:
    """The matrices of two sides as remedies read them, by an audit that is given, or made by settings."""
    sides = open_sides(base, tuned)
    audited = audited_whole(*sides, audit, Compute(cache=False))
    stacked, _, _ = under_common_names(sides[0], [part for part, _ in parts_of(sides[1])])
    return TunedMatrices(stacked, audited, torch.device("cpu"))


def mitigated(folder: Path, source: str | None = None, **settings: Any) -> Mitigation:
    """Mitigate the model ``tuned`` in a folder, or another source, beside its ``base``, into ``out``."""
    return mitigate(folder / "base", source or folder / "tuned", **({"out": folder / "out"} | settings))


def medium_llama(seed: int = 0) -> nn.Module:
    """Large enough in every matrix that vectors are found by the Krylov method."""
    return tiny_llama(seed, hidden_size=160, intermediate_size=224, num_key_value_heads=4)


def wide_spectrum(model: nn.Module, seed: int = 7) -> nn.Module:
    """The model with the spectra of trained weights: a few large singular values before a long tail."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            u, s, v = torch.linalg.svd(parameter.data, full_matrices=False)
            tail = 1 + 20 * torch.rand(len(s), generator=generator) / (1 + torch.arange(len(s)))
            parameter.data = (u * (s * tail)) @ v
    return model


def places_of_intruders(base: Tensor, tuned: Tensor, k: int = 10, epsilon: float = 0.5) -> list[int]:
    """By the definition: two full decompositions in double precision."""
    cosines = left_vectors(base).mT @ left_vectors(tuned)[:, :k]
    return (cosines.abs().amax(0) < epsilon).nonzero().flatten().tolist()


def left_vectors(matrix: Tensor) -> Tensor:
    return torch.linalg.svd(matrix.double(), full_matrices=False)[0]


def scaled(tuned: Tensor, places: list[int], scale: float) -> Tensor:
    """``W + (scale - 1) sum_j s_j y_j v_j^T`` over the given places, in double precision."""
    u, s, v = torch.linalg.svd(tuned.double(), full_matrices=False)
    return tuned.double() + (scale - 1) * (u[:, places] * s[places]) @ v[places]


def merged_from(folder: Path, base: nn.Module) -> dict[str, Tensor]:
    """What PEFT itself makes of a written adapter."""
    return merged_weights(PeftModel.from_pretrained(base, str(folder)))


def weights_of(folder: Path, adapter: Path | None = None) -> dict[str, Tensor]:
    """The weights of a causal model as transformers loads it, with an adapter as PEFT merges it."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    if adapter is None:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return merged_weights(PeftModel.from_pretrained(model, adapter))


def renamed_in(folder: Path, renamed: Callable[[str], str]) -> Path:
    """Write the weights of a folder again, under other names."""
    file = folder / "model.safetensors"
    tensors = {renamed(name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the largest entry."""
    return float((found.double() - wanted.double()).abs().max() / wanted.abs().max())
