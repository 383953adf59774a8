"""LoRA on parameters (``target_parameters``), which only a base tells from LoRA on the modules that have them.

PEFT gives both the same names, and adapts the parameter p of a module M where a target is "M.p" or the end of it and
the model has M.p; the tensors of every other module are for its weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import CheckpointError, PairingError, some_of
from ...linalg.low_rank import LowRank
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import text_config
from ..stored.names import Shape, Shapes, match_names, plain
from .adapter import AdaptedWeight, AdapterConfig
from .by_formula import LoraFactors, lora_scale, low_rank, module_update, widened

# The models whose stacks of experts PEFT knows to be stored input side first (``is_transposed`` of their modules).
_KNOWN_AS_INPUT_FIRST = {"aria", "aria_text", "gpt_oss", "openai_privacy_filter"}


@dataclass(frozen=True)
class UndecidedModule:
    """A module whose tensors are for one of its parameters, or for its weight."""

    name: str
    parameters: list[str]  # "M.p" of every target that means it
    updates: list[AdaptedWeight]  # of those parameters whose rank the tensors may have
    without_parameters: AdaptedWeight  # on a base that has none of the parameters
    likeliest: AdaptedWeight  # to show while no base is known


def parameters_meant(module: str, config: AdapterConfig) -> list[str]:
    """The parameters of a module that PEFT would adapt, if the model has them.

    >>> config = AdapterConfig({"target_parameters": ["down_proj", "experts.gate_up_proj", "gate.weight"]}, "a")
    >>> parameters_meant("layers.0.mlp.experts", config)
    ['layers.0.mlp.experts.down_proj', 'layers.0.mlp.experts.gate_up_proj']
    """
    names = {target: f"{module}.{target.rpartition('.')[2]}" for target in config.names("target_parameters")}
    return list(dict.fromkeys(name for target, name in names.items() if f".{name}".endswith(f".{target}")))


def undecided_module(factors: LoraFactors, parameters: list[str], config: AdapterConfig) -> UndecidedModule:
    """The updates that the factors of a module may be, where a target means one of its parameters."""
    name = factors.module
    made = [_parameter_update(factors, parameter, config) for parameter in parameters]
    updates = [update for update in made if update is not None]
    rank = config.pattern_value("rank_pattern", name, config.number("r"))
    is_of_module = factors.rank == rank or not updates
    without = module_update(factors, config) if is_of_module else updates[0]
    stacks = [update for update in updates if update.experts is not None]
    of_weight = updates if f"{name}.weight" in parameters else []
    return UndecidedModule(name, parameters, updates, without, [*stacks, *of_weight, without][0])


def decided_by_base(
    undecided: list[UndecidedModule], source: str, base: Checkpoint, shapes: Shapes
) -> list[AdaptedWeight]:
    """The update of each module on a base, whose ``shapes`` are those that an adapter sees.

    PEFT nests the adapters of one module's parameters and does not write which is whose: their shapes tell.
    PairingError where several parameters of the base fit, or it is not known which side of one is the output.
    """
    ends = {_end(name) for name in shapes}
    # Of parameters that a file has under another name, which no end tells.
    ends.update(_end(name) for name in _base_names([module.updates for module in undecided], shapes))
    choices = []
    for module in undecided:  # the updates for parameters that the base has, whatever prefix it gives them
        present = [name for name in module.parameters if _end(name) in ends]
        updates = [update for update in module.updates if update.name in present]
        if present and not updates:
            raise CheckpointError(
                f"'{source}' has a lora_A for '{module.name}' of the rank of none of {', '.join(present)}; "
                "expected tensors and config of one training"
            )
        choices.append(updates)
    base_of = _base_names(choices, shapes)
    decided: list[AdaptedWeight] = []
    for module, updates in zip(undecided, choices, strict=True):
        named = [(update, base_of.get(update.name)) for update in updates]
        fitting = [
            (update, name)
            for update, name in named
            if name is not None and update.full_shape in (shapes[name], base.shape(name))
        ]
        if len(fitting) > 1:
            raise PairingError(
                f"the adapter '{source}' changes one of {some_of([update.name for update, _ in fitting])}, which have "
                "the same shape, and does not say which; merge it with PEFT, and pass the merged model"
            )
        for update, name in (fitting or named)[:1]:
            decided.append(
                update if name is None else _output_first(update, name, source, base, shapes[name])
            )
        if not named:
            decided.append(module.without_parameters)
    return decided


def _base_names(choices: list[list[AdaptedWeight]], shapes: Shapes) -> Mapping[str, str]:
    """The base's name by an update's, whose own shape cannot tell: how a parameter is stored depends on the base."""
    possible = {update.name: (-1,) * len(update.full_shape) for updates in choices for update in updates}
    return match_names(shapes, possible).base_of


def _end(name: str) -> str:
    return ".".join(plain(name).split(".")[-2:])


def _output_first(
    update: AdaptedWeight, name: str, source: str, base: Checkpoint, shape: Shape
) -> AdaptedWeight:
    """The update (m, n), output side first, of a parameter that PEFT may have taken as it is stored."""
    stored = base.shape(name)
    if base.tied.get(name, name) not in base.input_first or update.full_shape != stored:
        return update
    if stored == shape and len(stored) == 3:  # square, so that the shape does not tell
        model_type = text_config(base.config).get("model_type")
        if model_type is None:
            raise PairingError(
                f"the adapter '{source}' changes '{name}' of '{base.source}', whose matrices are square and stored "
                "input side first, and no config says of which model; pass the base with its config.json"
            )
        if model_type in _KNOWN_AS_INPUT_FIRST:
            return update

    def change(weight: Tensor, expert: int | None) -> LowRank:
        stored_order = update.change(weight, expert)
        assert isinstance(stored_order, LowRank)
        return LowRank(stored_order.right.mT, stored_order.left.mT)

    return replace(update, shape=update.shape[::-1], change=change)


def _parameter_update(factors: LoraFactors, name: str, config: AdapterConfig) -> AdaptedWeight | None:
    """The update of a parameter, if the rank allows it: A (e r, in), B (out, r e), the expert as the faster index."""
    down, up = factors.down, factors.up
    rank = int(config.pattern_value("rank_pattern", name, config.number("r")))
    experts, rest = divmod(down.shape[0], max(rank, 1))
    if rest or rank < 1:
        return None
    scale = config.scales.get(factors.name, lora_scale(name, rank, config))
    if experts == 1:
        return low_rank(name, down, up, scale)

    def change(base: Tensor, expert: int | None) -> LowRank:
        left = widened(up.read()).reshape(up.shape[0], rank, experts)[:, :, expert or 0]
        right = widened(down.read()).reshape(experts, rank, -1)[expert or 0]
        return LowRank(scale * left, right)

    return AdaptedWeight(name, (up.shape[0], down.shape[1]), rank, scale, "lora", change, experts)
