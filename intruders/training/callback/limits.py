"""When a training is audited and ended, the limits of a state that is kept, and the last checkpoint below them.

The Trainer writes that checkpoint, and loads it at the end.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from torch import nn

from ...checkpoints.formats.memory import has_adapters
from ...errors import SettingError, some_of
from ...settings.numbers import is_number, is_whole
from ...system.documents import read_document
from ...system.files import write_atomically
from .sharding import ZERO_3, sharded_by


@dataclass(frozen=True)
class Watch:
    """When a training is audited, and what then ends it or warns.

    Attributes:
      every: number of steps between audits.
      stop_above: end training when an audit finds more intruders than this.
      alert_above: warn when an audit finds more intruders than this, in Weights & Biases and trackio too.
    """

    every: int = 100
    stop_above: int | None = None
    alert_above: int | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.every) or self.every < 1:
            raise SettingError(
                f"every is {self.every!r}; expected a whole number of steps between audits, 1 or more"
            )
        for name in ("stop_above", "alert_above"):
            number = getattr(self, name)
            if number is not None and (not is_whole(number) or number < 0):
                raise SettingError(f"{name} is {number!r}; expected a whole number of intruders, 0 or more")


@dataclass(frozen=True)
class Text:
    """The text on which each audit measures the loss too.

    Attributes:
      loss_on: a corpus, such as ``pydoc``. The rise of the loss over the base, in nats per token, is logged as
        ``forgetting/pydoc``.
      loss_documents: number of documents of the corpus, the same ones at every audit.
      loss_tokens: number of tokens of each document, from its start.
      tokenizer: the model's; that of the Trainer if not given, else that of the folder which the model names.
    """

    loss_on: str | os.PathLike[str] | None = None
    loss_documents: int = 8
    loss_tokens: int = 256
    tokenizer: Any = None

    def __post_init__(self) -> None:
        for name, least in (("loss_documents", 1), ("loss_tokens", 2)):
            number = getattr(self, name)
            if not is_whole(number) or number < least:
                raise SettingError(f"{name} is {number!r}; expected a whole number, {least} or more")


@dataclass(frozen=True)
class Limits:
    """The limits of a state that is kept; None of them means that none is.

    Attributes:
      keep_forgetting_below: a rise in nats per token. The Trainer saves every audited state below it as a checkpoint,
        keeps the last one, and loads it when the training ends above, so that it is what is saved.
      keep_intruders_below: a number of intruders, likewise. With both, a state is below both limits.
      go_on_over_limit: continue after an audit at or above a limit, since a later state may be below it again;
        otherwise the training ends there.
    """

    keep_forgetting_below: float | None = None
    keep_intruders_below: int | None = None
    go_on_over_limit: bool = False

    def __post_init__(self) -> None:
        rise, count = self.keep_forgetting_below, self.keep_intruders_below
        if rise is not None and not (is_number(rise) and 0 < rise < math.inf):
            raise SettingError(
                f"keep_forgetting_below is {rise!r}; expected a rise in nats per token, above 0"
            )
        if count is not None and not (is_whole(count) and count >= 1):
            raise SettingError(
                f"keep_intruders_below is {count!r}; expected a whole number of intruders, 1 or more"
            )

    @property
    def is_given(self) -> bool:
        """Whether there is a limit."""
        return self.keep_forgetting_below is not None or self.keep_intruders_below is not None

    def is_below(self, intruders: int, forgetting: float | None) -> bool:
        """Return whether a state with this number of intruders and this rise is below both limits."""
        few = self.keep_intruders_below is None or intruders < self.keep_intruders_below
        # A rise that is not a number is below no limit.
        limit = self.keep_forgetting_below
        return few and (limit is None or forgetting is None or forgetting < limit)


class Named(TypedDict, total=False):
    """The fields of the three by name."""

    every: int
    stop_above: int | None
    alert_above: int | None
    loss_on: str | os.PathLike[str] | None
    loss_documents: int
    loss_tokens: int
    tokenizer: Any
    keep_forgetting_below: float | None
    keep_intruders_below: int | None
    go_on_over_limit: bool


Group = TypeVar("Group", Watch, Text, Limits)


def taken(kind: type[Group], given: Group | None, named: dict[str, Any]) -> Group:
    """Return the values that are given as one object, or by their names, which are taken out of ``named``.

    Raises:
      SettingError: a value is out of range, or given both ways.
    """
    own = {field.name: named.pop(field.name) for field in fields(kind) if field.name in named}
    if given is None:
        return kind(**own)
    if own:
        raise SettingError(
            f"{', '.join(own)} and a {kind.__name__} are given; expected one of the two; put them into the "
            f"{kind.__name__}"
        )
    return given


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
