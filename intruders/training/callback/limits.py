"""When a training is audited and ended, and the last checkpoint below limits: the Trainer writes and loads it."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from ...errors import SettingError
from ...settings import Settings, setting
from ...system.documents import read_document
from ...system.files import write_atomically

_INTRUDERS = "a whole number of intruders, 0 or more"
_of_limits = partial(setting, panel="Accuracy and stopping", advanced=True, new_in="0.2")
_of_text = partial(_of_limits, changes_weights=False)


@dataclass(frozen=True)
class Limits(Settings):
    """The text on which each audit measures the loss too, and the limits of a state that is kept.

    Without a limit none is kept. With both, a state is below both. The Trainer saves every audited state below them as
    a checkpoint, keeps the last one, and loads it when the training ends above, so that it is what is saved.
    """

    loss_on: str | None = _of_text(
        None,
        "Corpus on which every audit measures the loss too, such as pydoc. Its rise over the base is logged.",
        metavar="CORPUS",
    )
    loss_documents: int = _of_text(8, "Number of documents of --loss-on.", least=1)
    loss_tokens: int = _of_text(
        256, "Number of tokens of each document of --loss-on, from its start.", least=2
    )

    keep_forgetting_below: float | None = _of_limits(
        None,
        "Save the last audited state whose loss on --loss-on is less than this many nats per token above the base's, "
        "and stop at the first audit that is not below.",
        above=0,
        in_id="below{:g}",
        metavar="NATS",
        unless_given="default: no limit",
    )
    keep_intruders_below: int | None = _of_limits(
        None,
        "Save the last audited state with fewer intruders than this number, and stop at the first audit that has as "
        "many.",
        least=1,
        in_id="below{}intruders",
        unless_given="default: no limit",
    )
    go_on_over_limit: bool = _of_limits(
        False,
        "Train on after an audit that is not below a limit; a later state below it is saved instead.",
        in_id="goes-on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_forgetting_below is not None and self.loss_on is None:
            raise SettingError(
                f"keep_forgetting_below is {self.keep_forgetting_below:g}, but no loss is measured; pass loss_on with "
                "a corpus, such as 'pydoc'"
            )

    @property
    def has_limit(self) -> bool:
        return self.keep_forgetting_below is not None or self.keep_intruders_below is not None

    def is_below(self, intruders: int, forgetting: float | None) -> bool:
        few = self.keep_intruders_below is None or intruders < self.keep_intruders_below
        # A rise that is not a number is below no limit.
        limit = self.keep_forgetting_below
        return few and (limit is None or forgetting is None or forgetting < limit)


@dataclass(frozen=True)
class Watch(Limits):
    """When a training is audited, and what is then measured, ends it or warns."""

    every: int = setting(
        100,
        "Number of steps between audits.",
        least=1,
        expected="a whole number of steps between audits, 1 or more",
    )
    stop_above: int | None = setting(
        None, "End training when an audit finds more intruders than this.", least=0, expected=_INTRUDERS
    )
    alert_above: int | None = setting(
        None,
        "Warn when an audit finds more intruders than this, in Weights & Biases and trackio too.",
        least=0,
        expected=_INTRUDERS,
    )


class Named(TypedDict, total=False):
    """The fields of ``Watch`` by name."""

    every: int
    stop_above: int | None
    alert_above: int | None
    loss_on: str | os.PathLike[str] | None
    loss_documents: int
    loss_tokens: int
    keep_forgetting_below: float | None
    keep_intruders_below: int | None
    go_on_over_limit: bool


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

    def load_at_end(self, args: Any, state: Any) -> dict[str, Any] | None:
        """Have the Trainer load the state after its last step, and return its record; None if there is none."""
        if self._folder is None:
            return None
        args.load_best_model_at_end, state.best_model_checkpoint = True, str(self._folder)
        return self.record


def _checkpoint(args: Any, step: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"
