"""PEFT LoRA: D = scale * B A, with scale = alpha / r, or alpha / sqrt(r) for rank-stabilized LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from ...errors import CheckpointError, PairingError, some_of
from ...linalg.low_rank import LowRank
from ..stored.checkpoint import StoredTensor
from .adapter import AdaptedWeight, Shape
from .adapter_config import AdapterConfig
from .formulas import low_rank, widened

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

    name: str  # of the module
    parts: dict[str, StoredTensor] = field(default_factory=dict)

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


def lora_updates(
    tensors: Mapping[str, StoredTensor], config: AdapterConfig, scales: Mapping[str, float]
) -> tuple[list[AdaptedWeight], list[list[AdaptedWeight]]]:
    """One update a module, and the alternatives for each of ``target_parameters``.

    Args:
      tensors: the adapter's tensors, without the prefix ``base_model.model.``.
      config: the adapter's config.
      scales: by module, where a model in memory has its own idea of the scale.

    Raises:
      CheckpointError: a lora_A without its lora_B, shapes and ranks that contradict each other or the config.
    """
    parameters = config.names("target_parameters")
    updates: list[AdaptedWeight] = []
    undecided: list[list[AdaptedWeight]] = []
    for module in lora_modules(tensors, config.source):
        name = module.name.replace(".base_layer", "")
        targets = [parameter for parameter in parameters if _is_inside(parameter, name)]
        if targets:
            choices = [_parameter_update(module, name, target, config) for target in targets]
            undecided.append([choice for choice in choices if choice is not None])
            if not undecided[-1]:
                raise CheckpointError(
                    f"'{config.source}' has a lora_A for '{name}' of the rank of none of "
                    f"{', '.join(targets)}; "
                    "expected tensors and config of one training"
                )
        else:
            updates.append(_module_update(module, name, config, scales))
    return updates, undecided


def decided_by_shapes(
    undecided: list[list[AdaptedWeight]], source: str, shapes: Mapping[str, Shape]
) -> list[AdaptedWeight]:
    """Choose from each list of ``target_parameters`` the one that a module's tensors are for.

    PEFT nests the adapters of one module's parameters and does not write which is whose: their shapes tell.

    Raises:
      PairingError: several parameters of the base fit.
    """
    return [_fitting(choices, source, shapes) for choices in undecided]


def _fitting(choices: list[AdaptedWeight], source: str, shapes: Mapping[str, Shape]) -> AdaptedWeight:
    fitting = [
        update
        for update in choices
        if any(
            (name == update.name or name.endswith(f".{update.name}")) and shape == update.full_shape
            for name, shape in shapes.items()
        )
    ]
    if len(fitting) > 1:
        raise PairingError(
            f"the adapter '{source}' changes one of {some_of([update.name for update in fitting])}, which have the "
            "same shape, and does not say which; merge it with PEFT, and pass the merged model"
        )
    return fitting[0] if fitting else choices[0]


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


def _module_update(
    module: LoraTensors, name: str, config: AdapterConfig, scales: Mapping[str, float]
) -> AdaptedWeight:
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


def _is_inside(parameter: str, module: str) -> bool:
    """Return whether ``experts.down_proj`` may be a parameter of the module ``layers.0.mlp.experts``."""
    parent = parameter.rpartition(".")[0]
    return not parent or module == parent or module.endswith(f".{parent}") or parent.endswith(f".{module}")


def _parameter_update(
    tensors: LoraTensors, module: str, parameter: str, config: AdapterConfig
) -> AdaptedWeight | None:
    """The update of ``module``'s parameter, if the tensors' rank allows that they are for that one.

    PEFT stacks the experts' factors: A (e r, in), and B (out, r e) with the expert as the faster index.
    """
    down, up, _ = tensors.pair(config.source)
    name = f"{module}.{parameter.rpartition('.')[2]}"
    rank = int(config.pattern_value("rank_pattern", name, config.number("r")))
    experts, rest = divmod(down.shape[0], max(rank, 1))
    if rest or rank < 1:
        return None
    scale = lora_scale(name, rank, config)
    if experts == 1:
        return low_rank(name, down, up, scale)

    def change(base: Tensor, expert: int | None) -> LowRank:
        left = widened(up.read()).reshape(up.shape[0], rank, experts)[:, :, expert or 0]
        right = widened(down.read()).reshape(experts, rank, -1)[expert or 0]
        return LowRank(scale * left, right)

    return AdaptedWeight(name, (up.shape[0], down.shape[1]), rank, scale, "lora", change, experts)
