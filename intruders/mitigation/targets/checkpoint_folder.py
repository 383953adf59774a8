"""A full checkpoint as the place where a mitigation writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.open import Opened
from ...checkpoints.writing.companions import companion_folder, write_companions
from ...checkpoints.writing.merged import planned_checkpoint
from ...checkpoints.writing.shards import write_checkpoint
from ..changes import Change
from .target import Written


@dataclass(frozen=True)
class CheckpointTarget:
    """The whole model, with everything that the tuned side changed, in shards."""

    base: Checkpoint
    tuned: Opened
    companions: Path  # where config and tokenizer are
    shard_bytes: int

    @classmethod
    def of(
        cls, base: Checkpoint, tuned: Opened, sources: tuple[object, object], shard_bytes: int
    ) -> CheckpointTarget:
        """Raises CheckpointError when the tuned side cannot be written as a whole model."""
        planned_checkpoint(base, tuned, {})
        return cls(base, tuned, companion_folder(base, tuned, *sources), shard_bytes)

    def write(
        self, folder: Path, changes: Mapping[str, Change], progress: Callable[[int, int], None] | None
    ) -> Written:
        whole = self.tuned if isinstance(self.tuned, Checkpoint) else self.base
        changed = {name: change.applied for name, change in changes.items()}
        tensors = planned_checkpoint(self.base, self.tuned, changed)
        largest = max(tensors, key=lambda tensor: tensor.nbytes)
        write_companions(self.companions, folder, largest.dtype, is_gguf=whole.format == "gguf")
        write_checkpoint(folder, tensors, shard_bytes=self.shard_bytes, progress=progress)
        return Written()
