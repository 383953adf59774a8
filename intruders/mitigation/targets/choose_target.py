"""The folder or model that a mitigation writes to: refused now, whatever could not be written later."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.formats.memory import has_adapters
from ...checkpoints.opening.many_sources import digest_of
from ...checkpoints.opening.model_sum import ModelSum, each_part
from ...checkpoints.opening.open import Opened, Source
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.locate import folder_of, locate
from ...checkpoints.writing.card import last_part, write_record
from ...checkpoints.writing.companions import (
    companion_folder,
    copy_own_tokenizer,
    write_companions,
    write_recipe,
)
from ...checkpoints.writing.lora_adapter import Rank, check_rank, plain_lora
from ...checkpoints.writing.merged import planned_checkpoint
from ...checkpoints.writing.shards import SHARD_BYTES, write_checkpoint
from ...checkpoints.writing.training_record import keep_training, training_record
from ...errors import CheckpointError, SettingError
from ...system.files import user_path
from ...system.folders import atomic_folder, check_target
from ...system.progress import Progress
from ...version import __version__
from .changed_adapter import LoraContent, ModelTarget, active_lora
from .new_adapter import NewLoraContent
from .target import Changes, Cut, Written

FORMS = ("auto", "adapter", "checkpoint")

# Base and tuned, as they were given; no base where an adapter names it.
Sources = tuple[Source | None, Source]


@dataclass(frozen=True)
class CheckpointContent:
    """The whole model, with everything that the tuned side changed, in shards."""

    base: Checkpoint
    tuned: Opened
    companions: Path  # where config and tokenizer are
    shard_bytes: int
    adapter: Path | None  # its folder, which may have another tokenizer

    def write(self, folder: Path, changes: Changes, progress: Progress, metadata: Mapping[str, str]) -> Cut:
        whole = self.tuned if isinstance(self.tuned, Checkpoint) else self.base
        changed, elsewhere = changes.matrices, changes.elsewhere
        applied = {name: change.applied_to for name, change in changed.items()}
        tensors = planned_checkpoint(self.base, self.tuned, applied, elsewhere)
        largest = max(tensors.values(), key=lambda tensor: tensor.nbytes)
        write_companions(whole, self.companions, folder, largest.dtype)
        if self.adapter is not None:
            # The number of tokens that the model has embeddings for; 0 if its config does not say.
            config = self.base.config or {}
            number = config.get("text_config", config).get("vocab_size")
            copy_own_tokenizer(self.adapter, folder, rows=number if isinstance(number, int) else 0)
        progress_of_write = partial(progress, "write")
        write_checkpoint(
            folder, tensors, shard_bytes=self.shard_bytes, progress=progress_of_write, metadata=metadata
        )
        if all(change.is_a_share and name in self.base.tensors for name, change in changed.items()):
            shares = {name: elsewhere(name) for name in self.base.tensors}
            shares |= {name: change.share for name, change in changed.items()}
            write_recipe(folder, (self.base, self.tuned), shares, largest.dtype)
        return Cut()


@dataclass(frozen=True)
class FolderTarget:
    """A folder that appears whole or not at all."""

    content: LoraContent | NewLoraContent | CheckpointContent
    form: str  # "adapter" or "checkpoint"
    folder: Path
    force: bool
    base: Source  # what the content is of
    tuned: Opened
    given: Source  # the tuned model, as it was given
    path: Path | None  # where it is; None in memory, and of a sum
    training: dict[str, Any] | None  # the record of the run that trained the tuned model

    @contextmanager
    def writing(self, changes: Changes, progress: Progress) -> Iterator[Written]:
        """Write the changed model; what is written is there for good when the block ends."""
        with atomic_folder(self.folder, force=self.force) as folder:
            names = {"base": self.content.base.source, "tuned": self.tuned.source}
            metadata = {word: each_part(name, last_part) for word, name in names.items()}
            metadata["intruders"] = __version__
            if isinstance(self.given, str | os.PathLike):
                metadata["tuned_digest"] = digest_of(os.fspath(self.given))
            # A card that says of an adapter how it is loaded does not fit its merge, nor one of MLX an adapter.
            form = "adapter" if isinstance(self.tuned, Adapter) else "checkpoint"
            has_fitting_card = form == self.form and getattr(self.tuned, "family", "PEFT") == "PEFT"
            cut = self.content.write(folder, changes, progress, metadata)
            if self.training is not None:
                keep_training(self.training, folder)
            written = Written(self.base, folder, cut, folder)
            yield written
            beside = self.path if has_fitting_card else None
            write_record(folder, beside, self.form, names | {"out": self.folder.name}, written.lines)


def choose_target(
    sources: Sources,
    sides: tuple[Checkpoint, Opened],
    *,
    out: str | os.PathLike[str] | None,
    form: str,
    rank: Rank = None,
    adapter_name: str = "mitigated",
    force: bool,
    shard_bytes: int = SHARD_BYTES,
) -> FolderTarget | ModelTarget:
    """A folder for what was given or in the form that was asked for; without ``out`` the PeftModel itself."""
    check_rank(rank)
    if form not in FORMS:
        raise SettingError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
    base, tuned = sides
    model = next((side for side in sources if has_adapters(side)), None)
    if out is None:
        if model is None:
            raise SettingError("out is missing; expected a folder to write, unless a PeftModel is given")
        if form == "checkpoint":
            raise SettingError("a checkpoint is not put into a PeftModel; pass out, the folder to write")
        _require_update_of_the_adapter(base, tuned)
        return ModelTarget.of(base, model, adapter_name, rank, sources)
    check_target(out, force=force)
    target = Path(os.path.realpath(user_path(out)))
    for source in sources:
        if isinstance(source, str | os.PathLike) and Path(source).exists():
            read = Path(os.path.realpath(locate(os.fspath(source))))
            if target in (read, read.parent):
                raise SettingError(f"out '{out}' is where '{source}' is read from; choose another folder")
    path = None
    if isinstance(sources[1], str | os.PathLike) and not isinstance(tuned, ModelSum):
        path = locate(os.fspath(sources[1]))
    form = chosen_form(form, rank, tuned)
    content: LoraContent | NewLoraContent | CheckpointContent
    if form == "checkpoint":
        planned_checkpoint(base, tuned, {})  # refuses what cannot be written as a complete model
        companions = companion_folder(base, tuned, *sources)
        adapter = path if isinstance(tuned, Adapter) else None
        content = CheckpointContent(base, tuned, companions, shard_bytes, adapter)
    elif model is not None:
        _require_update_of_the_adapter(base, tuned)
        content = LoraContent.of(base, active_lora(model)[1], rank)
    elif path is not None and (plain := plain_lora(path, tuned.source, base)) is not None:
        beside = None if path.suffix == ".gguf" else folder_of(path)
        content = LoraContent.of(base, plain, rank, beside)
    else:
        content = NewLoraContent.of(base, tuned, rank)
    trained = None if path is None else training_record(folder_of(path))
    first = sources[0] if sources[0] is not None else model or base.source
    return FolderTarget(content, form, user_path(out), force, first, tuned, sources[1], path, trained)


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
