"""The two models of an experiment, as they were given and opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...checkpoints.opening.open import Opened
from ...checkpoints.pairing.names_of_base import with_stacks_of
from ...checkpoints.pairing.open_sides import open_sides, sides_on_disk
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.selection import EVERY_MATRIX
from ...checkpoints.writing.companions import own_tokenizer_files
from ...data.task import Example, Task
from ...models.base_model import digest_of_model
from ...models.encoding import fitting
from ...models.finetuned_folder import data_seed_of
from ...models.loading_settings import Loading
from ...models.stored_dtype import recorded_dtypes
from ...models.tuned_model import open_for_task


@dataclass(frozen=True)
class GivenSides:
    """Where base and tuned model are."""

    base: str | None  # None where an adapter names it
    tuned: str

    @classmethod
    def of(cls, base: object, tuned: object) -> GivenSides:
        """Take the models as a person gave them; one alone is the tuned one, whose adapter names its base.

        Raises:
          CheckpointError: neither is given, or one is a model in memory or no name at all.
        """
        return cls(*sides_on_disk(base, tuned))

    def data_seed(self, given: int | None) -> int:
        """Return the seed of the tasks' rows: the given one, or that of the run that trained the model."""
        return data_seed_of(self.tuned) if given is None else given

    def fitting(
        self, task: Task, splits: Mapping[str, list[Example]], loading: Loading
    ) -> dict[str, list[Example]]:
        """Return the rows of a task by split without the completions that the tuned model cannot read whole.

        Raises:
          SettingError: none of a split fits in its context.
        """
        if task.kind != "causal":  # a text to classify is cut
            return dict(splits)
        opened, _ = open_for_task(self.tuned, task, self.base, loading)
        return {
            split: fitting(opened.tokenizer, rows, opened.context, f"{split} split of task {task.name!r}")
            for split, rows in splits.items()
        }

    def open(self) -> OpenedSides:
        """Open both.

        Raises:
          CheckpointError: either cannot be found or read.
        """
        return OpenedSides(self, *open_sides(self.base, self.tuned))


@dataclass(frozen=True)
class OpenedSides:
    """Base and tuned model, opened."""

    sources: GivenSides
    before: Checkpoint
    after: Opened

    @property
    def both(self) -> tuple[Checkpoint, Opened]:
        return self.before, self.after

    @property
    def tuned(self) -> str:
        return self.sources.tuned

    @property
    def base_source(self) -> str:
        """Where the base is, also if an adapter names it."""
        return self.before.source if self.sources.base is None else self.sources.base

    @property
    def stacks(self) -> Checkpoint:
        """The base with the stacks of experts that the tuned model has."""
        return with_stacks_of(self.before, self.after)

    @cached_property
    def pairs(self) -> Sequence[PairedMatrix]:
        """Every matrix that the tuned model may have changed, embeddings and heads among them."""
        return pair_sides(*self.both, EVERY_MATRIX).pairs

    @property
    def loaded(self) -> list[str]:
        """The models whose weights are loaded: the base, and the tuned model unless it is an adapter."""
        return [self.base_source, self.tuned] if isinstance(self.after, Checkpoint) else [self.base_source]

    def key(self, loading: Loading) -> dict[str, Any]:
        """Return what identifies both models by content, and the types that they are loaded in."""
        return {
            "base": digest_of_model(self.base_source),
            "tuned": digest_of_model(self.tuned),
            **recorded_dtypes(loading, self.loaded),
            # Earlier versions read such an adapter's examples with its base's tokenizer.
            **({"reads": "as trained"} if own_tokenizer_files(self.tuned) else {}),
        }
