"""Models that are already in memory: an nn.Module, a PeftModel's own base, a state dict."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from torch import Tensor, nn

from ...errors import CheckpointError, some_of
from ..quantized.restore import restored
from ..stored.checkpoint import Checkpoint, StoredTensor, tensor_in_memory
from ..stored.matrices import stored_input_first

# FSDP 1 puts itself into the names of modules, not into those of their weights.
FSDP_1_WRAPPER = "_fsdp_wrapped_module."
# torch.compile does so too, in a compiled model or layer, and into those of their weights.
COMPILED_WRAPPER = "_orig_mod."


def is_state_dict(source: object) -> bool:
    """Return whether it maps names to tensors (an empty mapping does not)."""
    return (
        isinstance(source, Mapping)
        and len(source) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in source.items())
    )


def has_adapters(source: object) -> TypeGuard[nn.Module]:
    """Return whether it is a PeftModel, or a transformers model into which PEFT adapters were put."""
    return isinstance(source, nn.Module) and isinstance(getattr(source, "peft_config", None), dict)


def trained_matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return the matrices of a model, without its adapters, that training changes, by their names in the base."""
    state = model.state_dict(keep_vars=True)
    own = _without_adapters(model, state) if has_adapters(model) else _not_compiled(state)
    return {
        name: tensor
        for name, tensor in own.items()
        if isinstance(tensor, Tensor) and tensor.requires_grad and tensor.ndim >= 2
    }


def addresses_of_matrices(source: object) -> set[int]:
    """Return where the matrices of a model or state dict in memory lie; none of one on disk."""
    state = source.state_dict(keep_vars=True) if isinstance(source, nn.Module) else source
    if not isinstance(state, Mapping):
        return set()
    tensors = [tensor for tensor in state.values() if isinstance(tensor, Tensor) and not tensor.is_meta]
    return {tensor.data_ptr() for tensor in tensors if tensor.ndim >= 2 and tensor.numel()}


def adapter_tensors(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``state``, the model's state dict, that are not weights beneath its adapters."""
    own = {id(tensor) for tensor in _without_adapters(model, state).values()}
    return {name: tensor for name, tensor in state.items() if id(tensor) not in own}


def with_copies(checkpoint: Checkpoint, copies: Mapping[str, Tensor]) -> Checkpoint:
    """The same checkpoint with these tensors alone; how its weights are stored stays known from all of them."""
    tensors = {name: tensor_in_memory(copy) for name, copy in copies.items()}
    return replace(checkpoint, tensors=tensors, tied={})


def state_dict_checkpoint(source: Mapping[str, Tensor]) -> Checkpoint:
    """A state dict as a checkpoint; nothing is copied."""
    return _in_memory(f"state dict of {len(source)} tensors", "state dict", _not_compiled(source), None)


def module_checkpoint(module: nn.Module, state: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """A module's own weights, or the base's beneath adapters; ``state`` where it does not hold them in full."""
    if state is None:
        state = module.state_dict(keep_vars=True)
    layers = sys.modules.get("peft.tuners.tuners_utils")  # without which no module can have an adapter
    if has_adapters(module):
        state = _without_adapters(module, state)
    elif layers and any(isinstance(part, layers.BaseTunerLayer) for part in module.modules()):
        # A wrapper, such as DistributedDataParallel, or a part: every weight would look unchanged.
        inside = next((path for path, part in module.named_modules() if has_adapters(part)), None)
        which = "the complete model" if inside is None else f"that model, its '{inside}'"
        what = "a part of" if inside is None else "a wrapper around"
        raise CheckpointError(f"{describe_module(module)} is {what} a model with PEFT adapters; pass {which}")
    else:
        state = _not_compiled(state)
    config: Any = getattr(module, "config", None)
    to_dict = getattr(config, "to_dict", None)
    values = dict(config) if isinstance(config, Mapping) else dict(to_dict()) if callable(to_dict) else None
    return _in_memory(describe_module(module), "module", state, values)


def _not_compiled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(COMPILED_WRAPPER, ""): tensor for name, tensor in state.items()}


def describe_module(module: nn.Module) -> str:
    """``LlamaForCausalLM (HuggingFaceTB/SmolLM2-135M)``: the class, and where its weights came from."""
    unwrap: Any = getattr(module, "get_base_model", None) if has_adapters(module) else None
    try:
        inner = unwrap() if callable(unwrap) else module
    except KeyError:  # delete_adapter leaves PEFT with the deleted one as the active adapter
        inner = getattr(module.base_model, "model", module)
    origin = getattr(getattr(inner, "config", None), "_name_or_path", None)
    name = type(inner).__name__
    return f"{name} ({origin})" if isinstance(origin, str) and origin else name


def _in_memory(
    source: str, kind: str, state: Mapping[str, Tensor], config: Mapping[str, Any] | None
) -> Checkpoint:
    empty = [name for name, tensor in state.items() if isinstance(tensor, Tensor) and tensor.is_meta]
    if empty:
        raise CheckpointError(
            f"{source} has tensors on the meta device, which have no numbers: {some_of(empty)}; load the model's "
            "weights first, without offloading them (device_map), or pass its path"
        )
    tensors: dict[str, StoredTensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):  # a module's extra state may be anything
            continue
        identity = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in first:
            tied[name] = first[identity]
            continue
        first[identity] = name
        tensors[name] = tensor_in_memory(tensor)
    whole = restored(tensors, config, source)
    shapes = {name: stored.shape for name, stored in whole.items()}
    return Checkpoint(source, kind, "memory", whole, config, tied, stored_input_first(shapes))


def _without_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors under their own names: wrappers are told by type, not by their names."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrappers: dict[str, str] = {}  # module path -> the child that holds the base's module
    for named, module in model.named_modules():
        path = named.replace(FSDP_1_WRAPPER, "")
        if isinstance(module, BaseTunerLayer):
            if module.merged:
                raise CheckpointError(
                    f"the adapter is merged into '{path}', so that the base's weights are gone; "
                    "call unmerge_adapter() first, or pass the base beside the model"
                )
            wrappers[f"{path}."] = "base_layer."
        elif isinstance(module, AuxiliaryTrainingWrapper):
            wrappers[f"{path}."] = (
                "token_adapter." if "token_adapter" in module._modules else "original_module."
            )
    # Longest path first, so that removing an inner wrapper's child leaves the outer paths as they are.
    paths = sorted(wrappers, key=len, reverse=True)
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        kept = name
        for path in paths:
            if kept.startswith(path + wrappers[path]):
                kept = path + kept.removeprefix(path + wrappers[path])
            elif kept.startswith(path):
                break
        else:
            result[kept.replace(COMPILED_WRAPPER, "").removeprefix("base_model.model.")] = tensor
    return result
