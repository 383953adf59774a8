"""The last state of a training that was under a limit, kept in a folder and put back at the end; and the files in use.

Two callbacks of one Trainer would replace each other's.
"""

from __future__ import annotations

import json
import math
import os
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoints.formats.memory import has_adapters
from ...errors import ResultFileError, SettingError, os_reason, some_of
from ...system.callers_process import random_state_kept
from ...system.documents import read_document
from ...system.files import free_name, user_path, write_atomically
from ...system.folders import atomic_folder, check_target, follow_umask
from .limits import Limits
from .sharding import decided_by_first, scatter, sharded_by
from .text_loss import inner_model
from .trace import check_trace

_RECORD = "kept.json"
_SCHEMA = 1


class KeptState:
    """A folder with a model or an adapter as ``save_pretrained`` writes it, and ``kept.json`` about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Of a model that is split over processes, on the first of them: names there are those of the shards.
        self._whole: dict[str, Tensor] | None = None

    @property
    def record(self) -> dict[str, Any] | None:
        """The step of the kept state and what was measured of it; None if no state is kept."""
        return read_document(self.folder / _RECORD, "the record of a kept state", _SCHEMA)

    def check(self, model: nn.Module) -> None:
        """Raise now what :meth:`keep` would raise.

        Raises:
          SettingError: the model has no ``save_pretrained``, or something beneath its adapters is trained that is not
            saved with them.
          ResultFileError: the folder cannot be made.
          CheckpointError: the folder contains other things.
        """
        if not hasattr(inner_model(model), "save_pretrained"):
            raise SettingError(
                f"a state of {type(model).__name__} cannot be kept, because it has no save_pretrained; expected a "
                "transformers or PEFT model; leave keep_forgetting_below and keep_intruders_below out"
            )
        if has_adapters(model) and sharded_by(model) is None and (lost := _not_saved(model)):
            raise SettingError(
                f"a state of the model cannot be kept: {some_of(lost)} beneath its adapters is trained and not saved "
                "with them; freeze it or name its module in modules_to_save, or leave keep_forgetting_below and "
                "keep_intruders_below out"
            )
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultFileError(
                f"cannot write '{self.folder}': {os_reason(error)}; choose another folder"
            ) from error
        check_target(self.folder, force=True)

    def set_aside(self, step: int, limits: Limits) -> None:
        """Give the state that an earlier training kept another name, so that one that begins does not replace it.

        One that resumes at ``step`` goes on with the state if it comes from a step before and is below ``limits``.
        """
        record = self.record
        if record is None:
            return
        # A loss that was not measured is below no limit.
        is_below = limits.is_below(record["intruders"], record.get("forgetting", math.inf))
        if record["step"] <= step and is_below:
            return
        aside = free_name(self.folder)
        os.rename(self.folder, aside)
        why = "above the limits of now"
        if step == 0:
            why = "by an earlier training"
        elif record["step"] > step:
            why = "after the checkpoint that resumes"
        warnings.warn(
            f"'{self.folder}' was kept {why}, at step {record['step']}; it is now '{aside.name}'",
            stacklevel=2,
        )

    def keep(
        self, model: Any, tokenizer: Any, record: dict[str, Any], whole: dict[str, Tensor] | None
    ) -> None:
        """Replace what is kept by the model as it is now, or not at all. For the first process.

        Args:
          model: the model.
          tokenizer: written beside it, if there is one.
          record: the step, and what was measured of the model.
          whole: the tensors of a model that is split over processes, gathered.
        """
        self._whole = whole
        saved = getattr(model, "module", model) if whole is not None else model
        with random_state_kept(on_all_devices=False), atomic_folder(self.folder, force=True) as part:
            saved.save_pretrained(str(part), **({} if whole is None else {"state_dict": whole}))
            if tokenizer is not None and hasattr(tokenizer, "save_pretrained"):
                tokenizer.save_pretrained(str(part))
            # PEFT's model card is a form of empty headings.
            (part / "README.md").unlink(missing_ok=True)
            follow_umask(part)
            write_atomically(part / _RECORD, json.dumps({"schema": _SCHEMA} | record, indent=2).encode())

    def put_back(self, model: nn.Module, way: str | None, is_first: bool) -> None:
        """Give the model the kept weights. Every process has to call this.

        ``way`` says how the model is sharded; None if it is not. The tensors of a sharded one are those of the last
        :meth:`keep` in this process (:attr:`can_be_put_back`).
        """
        if way is not None:
            scatter(model, way, self._whole, is_first)
            return
        if is_first:
            with random_state_kept(on_all_devices=False):
                self._load_into(model)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.distributed.broadcast(parameter.data, src=0)

    @property
    def can_be_put_back(self) -> bool:
        """Whether the first process has the tensors of a state of a sharded model."""
        return self._whole is not None

    def _load_into(self, model: Any) -> None:
        if not has_adapters(model):
            stored = type(model).from_pretrained(str(self.folder), dtype="auto")
            model.load_state_dict(stored.state_dict(), strict=False)
            return
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        for name in _active_adapters(model):
            folder = self.folder / name if (self.folder / name).is_dir() else self.folder
            set_peft_model_state_dict(
                model, load_file(folder / "adapter_model.safetensors"), adapter_name=name
            )


def _active_adapters(model: Any) -> list[str]:
    """Return the names of the adapters that act: PEFT has them as a property, transformers as a method."""
    active = model.active_adapters
    return list(active() if callable(active) else active)


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


def put_back_last(kept: KeptState, model: nn.Module, way: str | None, state: Any) -> dict[str, Any] | None:
    """Give the model the kept state and return its record; None, with a warning, if it cannot be had.

    Every process has to call this. ``way`` says how the model is sharded; None if it is not.
    """

    def known() -> tuple[dict[str, Any] | None, bool]:
        return kept.record, way is None or kept.can_be_put_back

    record, is_possible = decided_by_first(known, state)
    if record is not None and is_possible:
        kept.put_back(model, way, state.is_world_process_zero)
        return record
    if state.is_world_process_zero:
        missing = (
            "no audit saw a state below the limit, so that the model is left as it is; lower the learning "
            "rate, or audit more often (every)"
            if record is None
            else f"the state below the limit is in '{kept.folder}', and a sharded training that was resumed "
            "since cannot put it back; use that folder"
        )
        warnings.warn(f"the state at step {state.global_step} is over the limit; {missing}", stacklevel=3)
    return None


@dataclass(frozen=True)
class GivenFiles:
    """What a user says about the files, which may serve several Trainers: None is a name in the output folder."""

    trace: Path | None
    kept: Path | None
    has_trace: bool

    @classmethod
    def of(
        cls, trace: str | os.PathLike[str] | bool | None, kept: str | os.PathLike[str] | None
    ) -> GivenFiles:
        """Return the choice that the callback's arguments state."""
        has_trace = trace is not False and trace is not None
        named = None if trace is None or isinstance(trace, bool) else user_path(trace)
        return cls(named, None if kept is None else user_path(kept), has_trace)

    def in_folder(self, output: Path) -> tuple[Path | None, Path]:
        """Return the trace, None if there is to be none, and the folder of the kept state of one training."""
        trace = (self.trace or output / "intruders.parquet") if self.has_trace else None
        return trace, self.kept or output / "kept"


def check_files(trace: Path | None, kept: KeptState | None, model: nn.Module) -> None:
    """Raise now what writing the files of a training would raise at its first audit."""
    if trace is not None:
        check_trace(trace)
    if kept is not None:
        kept.check(model)


class FilesInUse:
    """The claim of a callback on its files, which ends when the callback lets go of it."""

    def __init__(self, state: Any, paths: dict[str, Path]) -> None:
        self._state = state  # the Trainer passes one and the same to all callbacks of a training
        self._paths = paths

    @classmethod
    def claimed(cls, state: Any, *, trace: Path | None, kept: Path | None) -> FilesInUse:
        """Claim the files of a training whose state is ``state``.

        Raises:
          SettingError: another callback of the same training has claimed one of them.
        """
        given = {"trace": trace, "kept": kept}
        paths = {name: path.resolve() for name, path in given.items() if path is not None}
        for other in _claims:
            for name, path in paths.items():
                if other._state is state and other._paths.get(name) == path:
                    raise SettingError(
                        f"two callbacks of one Trainer write '{given[name]}'; expected one for each; pass {name}= with "
                        "another path to one of them"
                    )
        claim = cls(state, paths)
        _claims.add(claim)
        return claim


_claims: weakref.WeakSet[FilesInUse] = weakref.WeakSet()
