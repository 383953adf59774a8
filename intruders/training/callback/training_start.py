"""What the audits of a training count from: the base, and the factors A that an adapter began with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ...audits.audit_settings import AuditSettings
from ...checkpoints.formats.memory import addresses_of_matrices, has_adapters, trained_matrices
from ...checkpoints.opening.open import Opened, Source
from .a_movement import StartOfA
from .audited_base import AuditedBase
from .sharding import sharded_by, will_be_sharded_by
from .start_digests import StartDigests
from .weights_before import (
    UnfrozenSince,
    base_of_sharded,
    checkpoint_of_training,
    require_matrices,
    require_trained_matrix,
    weights_before,
)


@dataclass
class TrainingStart:
    """The start of one training, taken before its first step; empty on a process that does not audit."""

    base: AuditedBase = field(default_factory=AuditedBase)
    checkpoint: str | None = None  # of an earlier training, whose weights were taken as the base
    factors: StartOfA | None = None
    digests: StartDigests | None = None  # where a trace is written, which a resumed training adds to

    @classmethod
    def of(
        cls,
        model: nn.Module,
        given: Source | None,
        settings: AuditSettings,
        *,
        is_first: bool,
        is_resumed: bool,
        has_trace: bool,
    ) -> TrainingStart:
        """Take the start, and raise what the first audit would raise as far as is known.

        Args:
          model: the model before training.
          given: its base; None for the weights that it has now.
          settings: those of the audits.
          is_first: whether this process audits; the others need no copy of the weights.
          is_resumed: whether the model was trained before.
          has_trace: whether a trace is written.

        Raises:
          SettingError: there is nothing to audit, or the weights before training are gone.
          CheckpointError: ``given`` or the model's adapter cannot be read. PairingError: they do not belong together.
        """
        # The model itself, or its state dict, changes as it trains: it stands for the weights that it has now.
        places = addresses_of_matrices(given)
        is_of_model = bool(places) and any(m.data_ptr() in places for m in trained_matrices(model).values())
        base, copied, is_own_base = None if is_of_model else given, None, False
        start = cls()
        if sharded_by(model) is not None:
            base = base_of_sharded(model, base)
        else:
            require_trained_matrix(model)
            if will_be_sharded_by() is not None and has_adapters(model):
                base = base_of_sharded(model, base)
            elif base is None:
                base = copied = weights_before(model, is_resumed, settings)
                is_own_base = True
                start.checkpoint = None if base is None else checkpoint_of_training(model)
            require_matrices(base, model, settings)
            if not is_resumed:
                start.factors = StartOfA.of(model)
        if is_first:
            unfrozen = UnfrozenSince(model, settings) if is_own_base else None
            start.base = AuditedBase(base, unfrozen, with_embeddings=settings.include_embeddings)
            if has_trace:
                factors = {} if start.factors is None else start.factors.factors
                start.digests = StartDigests.of(model, copied, is_own_base, factors, settings)
        return start

    def compare(self, trace: Path, model: nn.Module, is_resumed: bool) -> None:
        """Record what a training begins with; of a resumed one, refuse or leave out what it did not begin with."""
        if self.digests is None:
            return
        if not is_resumed:
            self.digests.write_beside(trace)
        elif not self.digests.require_same(trace, model):
            self.factors = None
            warnings.warn(
                "the factors A of the LoRA are not those that the resumed training began with, so that a_movement is "
                "left out; set the same seed before you make the adapter",
                stacklevel=2,
            )

    def movement(
        self, tuned: nn.Module | Opened, gathered: Mapping[str, Tensor] | None
    ) -> tuple[float | None, dict[str, float]]:
        """Return how far the factors A have moved in all, and by the name of the base's matrix.

        ``gathered`` holds the tensors of a model that is split over processes.
        """
        if self.factors is None:
            return None, {}
        now = dict(tuned.named_parameters()) if isinstance(tuned, nn.Module) else gathered or {}
        return self.factors.movement(now), self.factors.by_matrix(now)
