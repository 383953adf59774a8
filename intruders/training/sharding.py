"""Whether a training splits the matrices of its model over processes, so that none holds one in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import SettingError


def refuse_sharded_training(trainer: Any) -> None:
    """Raise SettingError where ``trainer`` will shard its model, or has sharded it.

    The answer is the same on every process, so that none waits for another one that has ended.
    """
    _refuse(_planned_by(trainer))
    refuse_sharded_model(trainer.model)


def refuse_sharded_model(model: nn.Module) -> None:
    """Raise SettingError where a parameter of ``model`` is split over processes, on every process alike."""
    _refuse(next(_ways_in(model), None))


def _refuse(way: str | None) -> None:
    if way is not None:
        raise SettingError(
            f"the Trainer's model is sharded by {way}, and audits during training need the whole model on "
            "every process; train with DDP or on one device, or audit the saved checkpoints with "
            "'intruders audit'"
        )


def _planned_by(trainer: Any) -> str | None:
    """What the Trainer's settings, or those of ``accelerate launch``, will do when training begins."""
    state = trainer.accelerator.state
    fsdp = getattr(state, "fsdp_plugin", None)
    if fsdp is not None:
        return f"FSDP {getattr(fsdp, 'fsdp_version', 1)}"
    deepspeed = getattr(state, "deepspeed_plugin", None)
    # Stages 1 and 2 share out the optimizer's state and the gradients; the parameters stay whole.
    return "DeepSpeed ZeRO-3" if deepspeed is not None and deepspeed.hf_ds_config.is_zero3() else None


def _ways_in(model: nn.Module) -> Iterator[str]:
    """How modules and parameters tell that they are shards: each library marks its own."""
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FullyShardedDataParallel

        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            yield "FSDP 1"
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            yield "DeepSpeed ZeRO-3"
        elif hasattr(parameter, "device_mesh"):
            yield "FSDP 2 or tensor parallelism (its parameters are DTensors)"
        elif getattr(parameter, "_is_flat_param", False):
            yield "FSDP 1"
