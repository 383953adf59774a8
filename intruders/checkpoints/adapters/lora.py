"""PEFT LoRA: D = scale * B A, with scale = alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor
from .adapter import AdaptedWeight
from .adapter_config import AdapterConfig
from .formulas import low_rank

# "q_proj.lora_A.weight", "q_proj.lora_A.default.weight" (a state dict saved by hand), "wte.lora_embedding_A"
_FACTOR_NAME = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|E|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.[^.]+)??(?P<kind>\.weight|\.bias)?"
)

# Settings under which B A is not what is added to a weight, and no one weight is what the model computes.
_REFUSED = {
    "layer_replication": "it repeats layers that the base has once; merge it with PEFT, and pass the merged model",
    "arrow_config": "it decides for each input what it adds, so that no one weight stands for it, and PEFT "
    "cannot merge it either; audit the adapters that it chooses among",
    "use_qalora": "it acts on groups of inputs of a GPTQ base, and PEFT cannot merge it; audit an adapter trained "
    "without it",
}
# Settings under which PEFT's own code makes the weight.
BY_PEFT = ("kasa_config", "use_bdlora")


@dataclass
class LoraTensors:
    """The tensors of one module by part, before they are checked against each other."""

    name: (
        str  # of the module; of one whose parameters are adapted, with ".base_layer" for each that PEFT nests
    )
    parts: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module's path in the base."""
        return self.name.replace(".base_layer", "")

    def pair(self, source: str) -> tuple[StoredTensor, StoredTensor, bool]:
        """(A, B, whether they are an embedding's), whose shapes fit together."""
        embedding = "embedding_A" in self.parts
        down, up = (self.parts.get(f"embedding_{part}" if embedding else part) for part in ("A", "B"))
        if down is None or up is None:
            raise CheckpointError(
                f"'{source}' has only one of lora_A and lora_B for '{self.name}'; expected both"
            )
        fitting = len(down.shape) >= 2 and len(up.shape) >= 2 and down.shape[0] > 0
        if not fitting or up.shape[1] != down.shape[0] or prod(up.shape[2:]) != 1:
            raise CheckpointError(
                f"'{source}' has lora_A {down.shape} and lora_B {up.shape} for '{self.name}'; "
                "expected (r, in) and (out, r), "
                "and no grouped convolution, whose LoRA PEFT cannot merge either"
            )
        return down, up, embedding


def require_weights(config: AdapterConfig) -> None:
    """Raise CheckpointError for a variant of LoRA of which no one weight is what the model computes."""
    for key, reason in _REFUSED.items():
        if config.values.get(key):
            raise CheckpointError(f"the adapter '{config.source}' uses {key}, and {reason}")


def lora_modules(tensors: Mapping[str, StoredTensor], source: str) -> list[LoraTensors]:
    """The adapter's tensors by module; raises CheckpointError when two adapters are in one file."""
    modules: dict[str, LoraTensors] = {}
    for name, tensor in tensors.items():
        match = _FACTOR_NAME.fullmatch(name)
        if match is None or match["kind"] == ".bias":
            continue
        module = modules.setdefault(match["module"], LoraTensors(match["module"]))
        if match["part"] in module.parts:
            raise CheckpointError(
                f"'{source}' contains more than one adapter ('{name}' among them); expected one adapter a file"
            )
        module.parts[match["part"]] = tensor
    return list(modules.values())


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


def module_update(module: LoraTensors, config: AdapterConfig, scales: Mapping[str, float]) -> AdaptedWeight:
    """The update of a module's weight.

    Args:
      module: its tensors.
      config: the adapter's config.
      scales: by module, where a model in memory has its own idea of the scale.

    Raises:
      CheckpointError: a lora_A without its lora_B, shapes and ranks that contradict each other or the config.
    """
    name = module.module
    down, up, embedding = module.pair(config.source)
    scale = scales[name] if name in scales else lora_scale(name, down.shape[0], config)
    magnitude = module.parts.get("magnitude_vector")
    if (magnitude is None) == config.flag("use_dora"):
        raise CheckpointError(
            f"'{config.source}' has use_dora = {config.flag('use_dora')} and "
            f"{'no' if magnitude is None else 'a'} lora_magnitude_vector for '{module.name}'"
        )
    if magnitude is not None and prod(magnitude.shape) != up.shape[0]:
        raise CheckpointError(
            f"'{config.source}' has a lora_magnitude_vector {magnitude.shape} for '{module.name}'; "
            f"expected {up.shape[0]} numbers"
        )
    return low_rank(f"{name}.weight", down, up, scale, transposed=embedding, magnitude=magnitude)
