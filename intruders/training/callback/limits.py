"""The last checkpoint below the limits of a training, which the Trainer writes, and loads at the end."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...checkpoints.formats.memory import has_adapters
from ...errors import SettingError, some_of
from ...system.documents import read_document
from ...system.files import write_atomically
from .callback_settings import Limits
from .sharding import ZERO_3, sharded_by


@dataclass(frozen=True)
class Look:
    """What an audit saw, as every process hears it."""

    has_too_many: bool = False  # more intruders than ``stop_above``
    is_below: bool = True  # the limits of what is kept
    is_finite: bool = True  # the model
    record: dict[str, Any] | None = None  # of a state below the limits: its step, and what was measured of it


RECORD = "kept.json"
_SCHEMA = 1


class KeptState:
    """The checkpoint of the last state below the limits, as every process knows it."""

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None  # the step, and what was measured of the state
        self._folder: Path | None = None  # once the Trainer has written it
        self._is_ours = self._was_ours = False  # the Trainer would not have written it, or the one before

    def resume(self, args: Any, state: Any, limits: Limits) -> None:
        """Take over what the checkpoint that is resumed knows, if that is below the limits of now."""
        folder = _checkpoint(args, state.best_global_step)
        known = read_document(folder / RECORD, "the record of a kept state", _SCHEMA)
        # A loss that was not measured is below no limit.
        if known is not None and limits.is_below(known["intruders"], known.get("forgetting", math.inf)):
            self.record, self._folder = known, folder
        else:
            state.best_global_step = state.best_model_checkpoint = None

    def keep(self, record: dict[str, Any], state: Any, control: Any) -> None:
        """Have the Trainer save the state of this step, and leave that checkpoint where it removes old ones."""
        self.record = {"schema": _SCHEMA} | record
        state.best_global_step = record["step"]
        self._was_ours, self._is_ours = self._is_ours, not control.should_save
        control.should_save = True

    def saved(self, args: Any, state: Any) -> None:
        """Write the record into the checkpoint that the Trainer has written, and remove the one before."""
        if self.record is None or self.record["step"] != state.global_step:
            return
        before, self._folder = self._folder, _checkpoint(args, state.global_step)
        state.best_model_checkpoint = str(self._folder)
        if not state.is_world_process_zero:
            return
        write_atomically(self._folder / RECORD, json.dumps(self.record, indent=2).encode())
        if before is not None and self._was_ours and before != self._folder:
            shutil.rmtree(before, ignore_errors=True)

    def load_at_end(self, args: Any, state: Any) -> bool:
        """Have the Trainer load the state after its last step; False if there is none."""
        if self._folder is None:
            return False
        args.load_best_model_at_end, state.best_model_checkpoint = True, str(self._folder)
        return True


def _checkpoint(args: Any, step: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def require_loadable(model: nn.Module, args: Any) -> None:
    """Raise SettingError if the Trainer cannot save and load a state of the model."""
    if getattr(args, "load_best_model_at_end", False) or getattr(args, "metric_for_best_model", None):
        raise SettingError(
            "the Trainer has a best checkpoint of its own (load_best_model_at_end or metric_for_best_model), and a "
            "limit makes the kept state that; pass one of the two"
        )
    if not has_adapters(model):
        return
    active: Any = getattr(model, "active_adapters", None)
    if callable(active) or len(active or ()) > 1:
        raise SettingError(
            "a state of the model cannot be kept: its Trainer loads one adapter of a PeftModel alone; wrap the model "
            "by peft.get_peft_model with one adapter, or leave keep_forgetting_below and keep_intruders_below out"
        )
    if sharded_by(model) is None and (lost := _not_saved(model)):
        raise SettingError(
            f"a state of the model cannot be kept: {some_of(lost)} beneath its adapters is trained and not saved "
            "with them; freeze it or name its module in modules_to_save, or leave keep_forgetting_below and "
            "keep_intruders_below out"
        )


def require_loadable_shards(way: str) -> None:
    """Raise SettingError for a way of sharding whose checkpoints no test has loaded back."""
    if way == ZERO_3:
        raise SettingError(
            "the model is sharded by DeepSpeed ZeRO-3, into which a kept state cannot be put; expected FSDP or a "
            "model that is not sharded; leave keep_forgetting_below and keep_intruders_below out, and stop with "
            "stop_above"
        )


def _not_saved(model: Any) -> list[str]:
    """Return the names of what is trained and not saved with the adapters, such as norms in LongLoRA."""
    from peft import get_peft_model_state_dict

    state = model.state_dict(keep_vars=True)
    saved = {
        id(tensor)
        for name in model.peft_config
        for tensor in get_peft_model_state_dict(
            model, state_dict=state, adapter_name=name, save_embedding_layers=False
        ).values()
    }
    return [
        name.removeprefix("base_model.model.")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in saved
    ]
