"""Complete tensors given back to a model that is split over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SettingError
from .gathered import own_of_unit, to_gather, units_of_fsdp_1
from .sharding import FSDP_1, ZERO_3


def require_scatterable(way: str) -> None:
    """Raise SettingError if complete tensors cannot be given back to a model that is sharded this way."""
    if way == ZERO_3:
        raise SettingError(
            "the model is sharded by DeepSpeed ZeRO-3, into which a kept state cannot be put; expected FSDP or a "
            "model that is not sharded; leave keep_forgetting_below and keep_intruders_below out, and stop with "
            "stop_above"
        )


@torch.no_grad()
def scatter(model: nn.Module, way: str, state: dict[str, Tensor] | None, is_first: bool) -> None:
    """Give a sharded model the tensors that were gathered from it. Every process has to call this.

    Args:
      model: the model, as the Trainer passes it to callbacks.
      way: how it is sharded.
      state: what :func:`gathered` returned, on the first process; ignored on the others.
      is_first: whether this process has the tensors.
    """
    given = state if is_first and state is not None else {}
    if way == FSDP_1:
        _to_fsdp_1(model, given, is_first)
    else:
        _to_dtensors(model, given, is_first)


def _to_dtensors(model: nn.Module, state: dict[str, Tensor], is_first: bool) -> None:
    """Give FSDP 2 its shards tensor by tensor, so that one complete tensor at a time is on the device."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    done: set[int] = set()  # a tied weight is one parameter under two names
    for name, tensor in to_gather(model).items():
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        own: Any = tensor.detach()
        if isinstance(own, DTensor):
            shape, device = own.shape, own.to_local().device
            whole = (
                state[name].to(device, own.dtype)
                if is_first
                else torch.empty(shape, dtype=own.dtype, device=device)
            )
            own.to_local().copy_(distribute_tensor(whole, own.device_mesh, own.placements).to_local())
        else:
            if is_first:
                own.copy_(state[name])
            torch.distributed.broadcast(own, src=0)


def _to_fsdp_1(model: nn.Module, state: dict[str, Tensor], is_first: bool) -> None:
    """Give FSDP 1 its shards unit by unit, as its forward pass gathers them."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    names: list[Any] = [sorted(state) if is_first else None]
    torch.distributed.broadcast_object_list(names, src=0)
    wanted = set(names[0])
    for path, unit in units_of_fsdp_1(model):
        with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=True):
            for name, tensor in own_of_unit(path, unit).items():
                if name in wanted:
                    if is_first:
                        tensor.copy_(state[name])
                    torch.distributed.broadcast(tensor.data, src=0)
