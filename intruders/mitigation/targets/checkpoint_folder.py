"""A full checkpoint as the place where a mitigation writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...checkpoints.opening.open import Opened
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.writing.companions import companion_folder, write_companions
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

    @classmethod
    def of(
        cls, base: Checkpoint, tuned: Opened, sources: tuple[object, object], shard_bytes: int
    ) -> CheckpointContent:
        """Build the target; raise CheckpointError if the tuned side cannot be written as a complete model."""
        planned_checkpoint(base, tuned, {})
        return cls(base, tuned, companion_folder(base, tuned, *sources), shard_bytes)

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
        write_companions(self.companions, folder, largest.dtype, is_gguf=whole.format == "gguf")
        write_checkpoint(folder, tensors, shard_bytes=self.shard_bytes, progress=partial(progress, "write"))
        return Cut()
