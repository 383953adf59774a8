"""Trainings in several processes: what the first one decides, and tensors split over them, put together on it."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...checkpoints.formats.memory import FSDP_1_WRAPPER, adapter_tensors, has_adapters
from ...checkpoints.opening.open import Opened, open_module
from ...errors import IntrudersError, SettingError, first_line

FSDP_1, FSDP_2, ZERO_3 = "FSDP 1", "FSDP 2 or tensor parallelism", "DeepSpeed ZeRO-3"


def sharded_by(model: nn.Module) -> str | None:
    """Return how ``model`` is split over processes, which each library marks in its own way; None if it is not."""
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            return FSDP_1
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            return ZERO_3
        if hasattr(parameter, "device_mesh"):
            return FSDP_2
        if getattr(parameter, "_is_flat_param", False):
            return FSDP_1
    return None


def will_be_sharded_by() -> str | None:
    """Return how a Trainer will split the model, by the settings that accelerate keeps once per process."""
    from accelerate.state import AcceleratorState

    if not AcceleratorState._shared_state:
        return None
    state = AcceleratorState()
    fsdp = getattr(state, "fsdp_plugin", None)
    if fsdp is not None:
        return FSDP_2 if getattr(fsdp, "fsdp_version", 1) == 2 else FSDP_1
    deepspeed = getattr(state, "deepspeed_plugin", None)
    # Stages 1 and 2 share out the optimizer's state and the gradients; the parameters stay whole.
    return ZERO_3 if deepspeed is not None and deepspeed.hf_ds_config.is_zero3() else None


Decision = TypeVar("Decision")


def decided_by_first(decide: Callable[[], Decision], state: Any) -> Decision:
    """Return on all processes what ``decide`` answers on the first; each raises if the first does.

    A process without the answer would wait for the others at the next step until the group's timeout.
    """
    from accelerate.utils import broadcast_object_list

    decided: Decision | None = None
    failure: Exception | None = None
    if state.is_world_process_zero:
        try:
            decided = decide()
        except Exception as error:
            failure = error
    told: list[Any] = [decided, None if failure is None else first_line(failure)]
    answer, text = broadcast_object_list(told)
    if failure is not None:
        raise failure
    if text is not None:
        raise IntrudersError(f"the audit at step {state.global_step} failed on the first process: {text}")
    decision: Decision = answer
    return decision


def require_gatherable(way: str, trainer: Any, has_limit: bool) -> None:
    """Raise SettingError if only a Trainer can gather the shards, and none is given, or no kept state can be loaded."""
    if way == ZERO_3 and trainer is None:
        raise SettingError(
            "the model is sharded by DeepSpeed ZeRO-3, and its engine alone can gather it; expected the Trainer "
            "that has it; make the callback with trainer=trainer"
        )
    if way == ZERO_3 and has_limit:
        raise SettingError(
            "the model is sharded by DeepSpeed ZeRO-3, into which a kept state cannot be put; expected FSDP or a "
            "model that is not sharded; leave keep_forgetting_below and keep_intruders_below out, and stop with "
            "stop_above"
        )


def gathered(model: nn.Module, way: str, trainer: Any, is_first: bool) -> dict[str, Tensor]:
    """Return a sharded model's current tensors, or its adapters' if it has some, on the first process's CPU.

    Every process has to call this, otherwise all wait. Only ZeRO-3 needs the ``trainer``, for DeepSpeed's engine.
    """
    if way == FSDP_1:
        return _from_fsdp_1(model, is_first)
    if way == FSDP_2:  # tensor by tensor, so that one complete matrix at a time is on the device
        whole: dict[int, Tensor] = {}  # a tied weight is one parameter under two names, and stays one tensor
        tensors = to_gather(model)
        for tensor in tensors.values():
            if id(tensor) not in whole:
                shard: Any = tensor.detach()
                full = shard.full_tensor() if hasattr(shard, "full_tensor") else shard
                whole[id(tensor)] = full.cpu() if is_first else full.new_empty(0)
        return {name: whole[id(tensor)] for name, tensor in tensors.items()}
    # ZeRO-3 gives what its engine saves, in 16 bits if the model is trained in them.
    trained_alone = all(
        tensor.requires_grad for tensor in to_gather(model).values() if tensor.is_floating_point()
    )
    state: dict[str, Tensor] | None = trainer.deepspeed._zero3_consolidated_16bit_state_dict(
        exclude_frozen_parameters=trained_alone and has_adapters(model)
    )
    return state or {}


def opened(model: nn.Module, state: dict[str, Tensor]) -> Opened:
    """Return what an audit reads of a sharded model whose tensors were gathered into ``state``."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return open_module(model.module if isinstance(model, FullyShardedDataParallel) else model, state)


def _from_fsdp_1(model: nn.Module, is_first: bool) -> dict[str, Tensor]:
    """Gather under FSDP 1 unit by unit, as its forward pass does, so that one complete unit is on the device."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    state: dict[str, Tensor] = {}
    for path, unit in [*model.named_modules()]:
        if not isinstance(unit, FullyShardedDataParallel):
            continue
        # FSDP 1 leaves itself out of the names of weights, and not of those of modules.
        inside = [
            name.replace(FSDP_1_WRAPPER, "")
            for name, inner in unit.named_modules()
            if name and isinstance(inner, FullyShardedDataParallel)
        ]
        with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False):
            named = [*unit.named_parameters(), *unit.named_buffers()]
            of_unit = {name.replace(FSDP_1_WRAPPER, ""): tensor for name, tensor in named}
            own = {  # by the names in the model
                f"{path}.{name}".replace(FSDP_1_WRAPPER, "").removeprefix("."): tensor
                for name, tensor in of_unit.items()
                if not any(name.startswith(f"{nested}.") for nested in inside)
            }
            if is_first:
                wanted = adapter_tensors(model, own) if has_adapters(model) else own
                state |= {name: tensor.detach().to("cpu", copy=True) for name, tensor in wanted.items()}
    return state


def to_gather(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return adapter_tensors(model, state) if has_adapters(model) else state
