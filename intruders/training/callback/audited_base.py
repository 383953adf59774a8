"""The model that the audits of a training compare with, opened once where training leaves it as it is."""

from __future__ import annotations

from torch import nn

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.formats.memory import has_adapters, has_frozen_base
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source, open_checkpoint, open_source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.stored.checkpoint import Checkpoint
from .weights_before import UnfrozenSince


class AuditedBase:
    """A base; None stands for the weights in memory, beneath an adapter.

    ``with_embeddings`` says whether the audits examine embeddings and heads, which may be trained beneath an adapter.
    """

    def __init__(
        self,
        base: Source | None = None,
        unfrozen: UnfrozenSince | None = None,
        *,
        with_embeddings: bool = False,
    ) -> None:
        self._base = base
        self._with_embeddings = with_embeddings
        self._unfrozen = unfrozen  # if the base was taken from the weights in memory
        # The same, open, once it is known to be what the model acts on.
        self._frozen: Checkpoint | None = None

    def sides(self, tuned: nn.Module | Opened) -> tuple[Checkpoint, Opened]:
        """Return the base and the model as it is now.

        The check that weights beneath an adapter are those of the base reads both. If training leaves them unchanged,
        it runs once. Weights that are split over processes are not read: they count as those of the base.
        """
        if not isinstance(tuned, nn.Module):
            assert self._base is not None
            self._frozen = self._frozen or open_checkpoint(self._base)
            return self._frozen, tuned
        if self._unfrozen is not None:
            self._unfrozen.warn(tuned)
        if self._frozen is not None:
            return self._frozen, open_source(tuned)
        base, now = open_sides(self._base, tuned, with_embeddings=self._with_embeddings)
        acts_on_base = isinstance(now, Adapter) or (
            isinstance(now, ModelSum) and all(isinstance(part, Adapter) for part, _ in now.parts)
        )
        if has_adapters(tuned) and acts_on_base and has_frozen_base(tuned):
            self._frozen = base
        return base, now
