"""A full checkpoint as the place where a mitigation writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.opening.open import Opened
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.locate import locate
from ...checkpoints.stored.tied import is_separated
from ...checkpoints.writing.companions import companion_folder, copy_own_tokenizer, write_companions
from ...checkpoints.writing.merged import Elsewhere, planned_checkpoint
from ...checkpoints.writing.shards import write_checkpoint
from ...system.progress import Progress
from .target import ChangedMatrix, Cut


@dataclass(frozen=True)
class CheckpointContent:
    """The whole model, with everything that the tuned side changed, in shards."""

    form = "checkpoint"

    base: Checkpoint
    tuned: Opened
    companions: Path  # where config and tokenizer are
    shard_bytes: int
    adapter: Path | None = None  # its folder, which may have another tokenizer

    @classmethod
    def of(
        cls, base: Checkpoint, tuned: Opened, sources: tuple[object, object], shard_bytes: int
    ) -> CheckpointContent:
        """Build the target; raise CheckpointError if the tuned side cannot be written as a complete model."""
        planned_checkpoint(base, tuned, {})
        companions, adapter = companion_folder(base, tuned, *sources), None
        given = sources[0] if sources[1] is None else sources[1]  # an adapter may come alone
        if isinstance(tuned, Adapter) and isinstance(given, str | os.PathLike):
            adapter = locate(os.fspath(given))
        return cls(base, tuned, companions, shard_bytes, adapter)

    def write(
        self, folder: Path, changed: Mapping[str, ChangedMatrix], elsewhere: Elsewhere, progress: Progress
    ) -> Cut:
        whole = self.tuned if isinstance(self.tuned, Checkpoint) else self.base
        tensors = planned_checkpoint(
            self.base,
            self.tuned,
            {name: matrix.change.applied_to for name, matrix in changed.items()},
            elsewhere,
        )
        largest = max(tensors, key=lambda tensor: tensor.nbytes)
        write_companions(
            self.companions,
            folder,
            largest.dtype,
            is_gguf=whole.format == "gguf",
            has_own_head=is_separated(whole),
        )
        if self.adapter is not None:
            copy_own_tokenizer(self.adapter, folder, rows=self._tokens())
        write_checkpoint(folder, tensors, shard_bytes=self.shard_bytes, progress=partial(progress, "write"))
        return Cut()

    def _tokens(self) -> int:
        """The number of tokens that the model has embeddings for, as its config says; 0 if it does not."""
        config = self.base.config or {}
        number = config.get("text_config", config).get("vocab_size")
        return number if isinstance(number, int) else 0
