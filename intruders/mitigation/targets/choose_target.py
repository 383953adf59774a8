"""Which target a mitigation writes to: refused now, whatever could not be written later."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.formats.memory import has_adapters
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.locate import locate
from ...checkpoints.writing.lora_adapter import Rank, check_rank, is_plain_lora
from ...checkpoints.writing.shards import SHARD_BYTES
from ...checkpoints.writing.training_record import training_record
from ...errors import CheckpointError, SettingError
from ...system.files import user_path
from ...system.folders import check_target
from .changed_adapter import LoraContent, ModelTarget, active_lora, check_name
from .checkpoint_folder import CheckpointContent
from .new_adapter import NewLoraContent
from .target import FolderContent, FolderTarget, Target

FORMS = ("auto", "adapter", "checkpoint")

# Base and tuned, as they were given; no base where an adapter names it.
Sources = tuple[Source | None, Source]


def choose_target(
    sources: Sources,
    sides: tuple[Checkpoint, Opened],
    *,
    out: str | os.PathLike[str] | None,
    form: str,
    rank: Rank,
    adapter_name: str,
    force: bool,
    shard_bytes: int = SHARD_BYTES,
) -> Target:
    """A folder for what was given or in the form that was asked for; without ``out`` the PeftModel itself.

    Raises:
      SettingError: a setting is out of range, or does not suit what was given.
      CheckpointError: ``out`` cannot be written, or the form does not suit what was given.
    """
    check_rank(rank)
    if form not in FORMS:
        raise SettingError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
    model = next((side for side in sources if has_adapters(side)), None)
    if out is None:
        return _in_memory(sources, sides, model, form, rank, adapter_name)
    check_target(out, force=force)
    _require_another_folder(out, *sources)
    content = _content(sources, sides, model, chosen_form(form, rank, sides[1]), rank, shard_bytes)
    base = sources[0] if sources[0] is not None else model or sides[0].source
    tuned = None if isinstance(sides[1], ModelSum) else _folder_of(sources[1])
    return FolderTarget(
        content, user_path(out), force, base, None if tuned is None else training_record(tuned)
    )


def _folder_of(source: Source) -> Path | None:
    """Return the folder that a model or adapter is read from; None for one in memory."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = locate(os.fspath(source))
    return path if path.is_dir() else path.parent


def _in_memory(
    sources: Sources,
    sides: tuple[Checkpoint, Opened],
    model: nn.Module | None,
    form: str,
    rank: Rank,
    adapter_name: str,
) -> ModelTarget:
    if model is None:
        raise SettingError("out is missing; expected a folder to write, unless a PeftModel is given")
    check_name(model, adapter_name)
    if form == "checkpoint":
        raise SettingError("a checkpoint is not put into a PeftModel; pass out, the folder to write")
    _require_update_of_the_adapter(*sides)
    return ModelTarget.of(sides[0], model, adapter_name, rank, sources)


def _content(
    sources: Sources,
    sides: tuple[Checkpoint, Opened],
    model: nn.Module | None,
    form: str,
    rank: Rank,
    shard_bytes: int,
) -> FolderContent:
    base, tuned = sides
    if form == "checkpoint":
        return CheckpointContent.of(base, tuned, sources, shard_bytes)
    if model is not None:
        _require_update_of_the_adapter(base, tuned)
        return LoraContent.of(base, active_lora(model)[1], rank)
    folder = _folder_of(sources[1]) if isinstance(tuned, Adapter) else None
    if folder is not None and is_plain_lora(folder, tuned.source):
        return LoraContent.read(base, folder, tuned.source, rank)
    return NewLoraContent.of(base, tuned, rank)


def chosen_form(form: str, rank: Rank, tuned: Opened) -> str:
    """Return the form to write: that of the input for "auto". SettingError for a rank that it does not have."""
    if form == "auto":
        form = "adapter" if isinstance(tuned, Adapter) else "checkpoint"
    if form == "checkpoint" and rank is not None:
        raise SettingError(f"rank is {rank!r}, and a checkpoint has none; leave it out, or pass --as adapter")
    return form


def _require_update_of_the_adapter(base: Checkpoint, tuned: Opened) -> None:
    if isinstance(tuned, ModelSum) and any(isinstance(part, Checkpoint) for part, _ in tuned.parts):
        raise CheckpointError(
            f"the weights beneath the adapter in '{tuned.source}' are not those of '{base.source}', so the update "
            "is not what the adapter alone adds; merge the adapter, and mitigate the merged model"
        )


def _require_another_folder(out: str | os.PathLike[str], *sources: object) -> None:
    """Raise SettingError when ``out`` is one of the folders that are read."""
    target = Path(os.path.realpath(user_path(out)))
    for source in sources:
        if isinstance(source, str | os.PathLike) and Path(source).exists():
            path = Path(os.path.realpath(locate(os.fspath(source))))
            if target in (path, path.parent):
                raise SettingError(f"out '{out}' is where '{source}' is read from; choose another folder")
