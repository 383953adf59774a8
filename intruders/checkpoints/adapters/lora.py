"""PEFT LoRA: D = scale * B A, with scale = alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..checkpoint import StoredTensor
from .config import AdapterConfig
from .update import Factors, WeightUpdate

# "q_proj.lora_A.weight", "q_proj.lora_A.default.weight" (a state dict saved by hand),
# "embed.lora_embedding_A"
_PART = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B)(?:\.[^.]+)??(?P<kind>\.weight|\.bias)?"
)


def lora_updates(
    tensors: Mapping[str, StoredTensor], config: AdapterConfig, scales: Mapping[str, float]
) -> list[WeightUpdate]:
    """One update a module that has lora_A and lora_B.

    Args:
      tensors: the adapter's tensors, without the prefix ``base_model.model.``.
      config: the adapter's config.
      scales: by module, where a model in memory has its own idea of the scale.

    Raises:
      CheckpointError: a lora_A without its lora_B, or shapes and ranks that contradict each other or the
        config.
    """
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = _PART.fullmatch(name)
        if match and match["kind"] != ".bias":
            module = modules.setdefault(match["module"], {})
            if match["part"] in module:
                raise CheckpointError(
                    f"'{config.source}' holds more than one adapter ('{name}' among them); expected one "
                    "adapter a file"
                )
            module[match["part"]] = tensor
    return [_update(module, parts, config, scales) for module, parts in modules.items()]


def lora_scale(module: str, rank: int, config: AdapterConfig) -> float:
    """PEFT's scale of a module's B A: alpha / r or alpha / sqrt(r), with the module's own alpha.

    Raises:
      CheckpointError: the rank of the tensors is not the one the config gives the module.
    """
    expected = config.pattern_value("rank_pattern", module, config.number("r"))
    if rank != expected:
        raise CheckpointError(
            f"'{config.source}' has rank {rank} in '{module}' and its config says {expected:g}; "
            "expected tensors and config of one training"
        )
    alpha = config.pattern_value("alpha_pattern", module, config.number("lora_alpha"))
    return alpha / math.sqrt(rank) if config.flag("use_rslora") else alpha / rank


def _update(
    module: str, parts: Mapping[str, StoredTensor], config: AdapterConfig, scales: Mapping[str, float]
) -> WeightUpdate:
    embedding = "embedding_A" in parts
    down, up = (parts.get(f"embedding_{part}" if embedding else part) for part in ("A", "B"))
    if down is None or up is None:
        raise CheckpointError(
            f"'{config.source}' has only one of lora_A and lora_B for '{module}'; expected both"
        )
    rank = down.shape[0] if down.shape else 0
    if len(down.shape) < 2 or len(up.shape) < 2 or rank == 0 or up.shape[1] != rank:
        raise CheckpointError(
            f"'{config.source}' has lora_A {down.shape} and lora_B {up.shape} for '{module}'; "
            "expected (r, in) and (out, r)"
        )
    scale = scales.get(module, lora_scale(module, rank, config))
    rows, columns = up.shape[0], math.prod(down.shape[1:])
    if math.prod(up.shape) != rows * rank:
        raise CheckpointError(
            f"'{config.source}' has lora_B {up.shape} for '{module}'; expected a 1x1 kernel"
        )

    def change(_: Tensor) -> Factors:
        left = scale * widened(up.read()).reshape(rows, rank)  # (out, r)
        right = widened(down.read()).reshape(rank, columns)  # (r, in), a kernel flattened
        # An embedding's weight is (tokens, dim), and PEFT adds (B A)^T to it.
        return Factors(right.mT, left.mT) if embedding else Factors(left, right)

    shape = (columns, rows) if embedding else (rows, columns)
    return WeightUpdate(f"{module}.weight", shape, rank, scale, "lora", change)


def widened(tensor: Tensor) -> Tensor:
    """In at least single precision, so that folding in the scale rounds nothing of half-precision factors."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
