"""Whether a training splits the matrices of its model over processes, so that none has a complete one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

FSDP_1, FSDP_2, ZERO_3 = "FSDP 1", "FSDP 2 or tensor parallelism", "DeepSpeed ZeRO-3"


def sharded_by(model: nn.Module) -> str | None:
    """Return how ``model`` is split over processes, the same on each of them; None if it is not."""
    return next(_ways_in(model), None)


def will_be_sharded_by() -> str | None:
    """Return how the settings of the Trainer or of ``accelerate launch`` will split the model.

    accelerate keeps these settings once per process, so that no Trainer is needed.
    """
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


def _ways_in(model: nn.Module) -> Iterator[str]:
    """Yield the ways of sharding that modules and parameters show: each library marks its own."""
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            yield FSDP_1
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            yield ZERO_3
        elif hasattr(parameter, "device_mesh"):
            yield FSDP_2
        elif getattr(parameter, "_is_flat_param", False):
            yield FSDP_1
