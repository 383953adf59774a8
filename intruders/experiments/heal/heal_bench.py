"""The tuned model in memory, measured in any state on any share of the data; what was measured before is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...checkpoints.stored.checkpoint import Checkpoint
from ...linalg.low_rank import LowRank
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.losses import mean_loss
from ...measures.outcome import Outcome, TaskOutcome
from ...models.tuned_model import OpenedModel
from ..bench.data_shares import DataShare
from ..bench.live_models import Scored
from ..bench.measuring import Measuring
from ..doses.dose_groups import DoseGroups, dose_groups
from ..doses.dosed_model import DosedModel, DosedUpdate, DoseVector
from ..doses.open_to_dose import distinct_models
from ..doses.tuned_state import TunedState
from .own_text import own_documents


@dataclass(frozen=True)
class HealBench:
    """The models that measure a tuned model, with one vector of doses on all of them."""

    language: OpenedModel
    scored: Scored  # by task
    measuring: Measuring
    base: Checkpoint
    groups: DoseGroups
    doses: DoseVector
    updates: Mapping[str, DosedUpdate]  # of the tuned model, by matrix
    kept: KeptOutcomes

    @property
    def models(self) -> list[nn.Module]:
        """Each once, the language model first."""
        return distinct_models(self.language, self.scored)

    def outcome(self, state: TunedState, share: DataShare, *, answers: bool, removed: str = "") -> Outcome:
        """Measure the losses of documents and examples of a state; with ``answers`` also which answers are right.

        ``removed`` names another change of the model during the measurement.
        """
        unit = {**state.unit(), **self.measuring.unit(share, answers)}
        if removed:
            unit["removed"] = removed
        outcome = self.kept.get(unit)
        if outcome is None:
            own = self.doses.values
            doses = torch.tensor(state.doses, dtype=own.dtype, device=own.device)
            with self.doses.at(doses, state.learned):
                scored = {name: self.scored[name] for name in share.examples}
                outcome = self.measuring.outcome(self.language, scored, share, answers)
            self.kept.put(unit, outcome)
        return outcome

    def everywhere(self, dose: float) -> TunedState:
        """Return the interpolation with this dose: 1 is the tuned model, 0 the base."""
        return TunedState(self.groups.everywhere(dose))

    def on_task(self, state: TunedState, share: DataShare, task: str) -> TaskOutcome:
        """Return the losses on a task's examples, and which targets the model reproduces."""
        alone = replace(share, corpora={}, examples={task: share.examples[task]})
        return self.outcome(state, alone, answers=False).tasks[task]

    def text_loss(self, state: TunedState, share: DataShare) -> float:
        """Return the mean loss on text, in nats per token."""
        outcome = self.outcome(state, replace(share, examples={}), answers=False)
        means = [mean_loss(parts, share.weights[name]) for name, parts in outcome.corpora.items()]
        return sum(means) / len(means)

    def own_text(self, kind: str, count: int, tokens: int, seed: int) -> list[str]:
        """Return documents of the base itself, as :func:`own_documents`."""
        unit = {"text": kind, "count": count, "tokens": tokens, "seed": seed}
        documents: list[str] | None = self.kept.get_plain(unit)
        if documents is None:
            with self.doses.off():
                documents = own_documents(self.language, kind, count, tokens, seed)
            self.kept.put_plain(unit, documents)
        return documents

    @contextmanager
    def with_added(self, changes: Mapping[str, LowRank]) -> Iterator[None]:
        """Add low-rank matrices to the weights within the block, whatever the doses."""
        names = list(changes)
        whole = DoseVector(torch.ones(len(names), device=self.doses.values.device))
        with ExitStack() as entered:
            for model in self.models:
                device = next(model.parameters()).device
                updates = {name: DosedUpdate.of(change, device) for name, change in changes.items()}
                entered.enter_context(
                    DosedModel(model, self.base, updates, dose_groups(names, "matrix"), whole, is_base=True)
                )
            yield
