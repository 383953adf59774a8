"""The tuned model in memory under any remedy: every evaluation once, measured or kept from an earlier call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ...checkpoints.writing.merged import Elsewhere
from ...errors import PairingError
from ...measures.base_inputs import documents_of, sample_inputs
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.outcome import Outcome
from ...measures.sensitivities import SingularDirections, sensitivities, task_batches
from ...mitigation.live_weights import LiveInterventions
from ...mitigation.remedies.remedy import Case, Remedy
from ...mitigation.tuned_matrices import TunedMatrices
from .data_shares import DataShare
from .live_models import LiveModels
from .measuring import Measuring
from .tally import Tally


class UnitOf(Protocol):
    """What tells an evaluation from all others that are kept in one folder."""

    def __call__(
        self, remedy: Remedy, share: DataShare, answers: bool, control: str | None, inputs: str | None
    ) -> dict[str, Any]:
        """Return plain JSON types, in which a folder of an earlier version still finds its own."""
        ...


@dataclass
class Bench:
    """The models that measure a tuned model: as a language model, and one more for tasks of another kind."""

    measuring: Measuring
    models: LiveModels
    matrices: TunedMatrices
    kept: KeptOutcomes
    tally: Tally
    unit_of: UnitOf
    # Of this call, so that nothing is measured twice where there is no folder.
    _seen: dict[str, Outcome] = field(default_factory=dict)

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        self.models.use(cases)

    def outcome(
        self,
        remedy: Remedy,
        share: DataShare,
        *,
        answers: bool = False,
        control: str | None = None,
        inputs: str | None = None,
        step: str | None = None,
    ) -> Outcome:
        """Return the evaluation of the tuned model under a remedy.

        Args:
          remedy: which changes the matrices that are in use.
          share: the documents and examples.
          answers: also measure which answers are right, and the tasks of lm-evaluation-harness.
          control: label of the remedy as a control of another one.
          inputs: what a control was matched on.
          step: what the progress says; by default the control or the remedy.
        """
        self.tally.step(step or control or remedy.name)
        unit = self.unit_of(remedy, share, answers, control, inputs)
        key = json.dumps(unit, sort_keys=True)
        outcome = self._seen.get(key) or self.kept.get(unit)
        if outcome is None:
            outcome = self.measured(remedy, share, answers)
            self.kept.put(unit, outcome)
        self._seen[key] = outcome
        return outcome

    def measured(self, remedy: Remedy, share: DataShare, answers: bool) -> Outcome:
        """Measure the tuned model under a remedy."""
        self.models.set(remedy, self.matrices.elsewhere(remedy))
        return self.measuring.outcome(self.models.language, self.models.scored, share, answers)

    def inputs(self, base: Remedy, names: Sequence[str], share: DataShare) -> dict[str, Tensor]:
        """Sample the base's inputs of matrices; ``base`` is the remedy that sets the model to the base's weights."""
        language = self.models.language
        assert language is not None  # without text no inputs are asked for
        live = self._live[0]
        live.set(base, self.matrices.elsewhere(base))
        documents = documents_of(share.corpora)
        inputs = sample_inputs(language, live.modules_of(names), documents, self.measuring.seed)
        live.reset()
        return inputs

    def sensitivities(
        self, directions: Mapping[str, SingularDirections], task: str, examples: int
    ) -> dict[str, list[float]]:
        """Return the sensitivity of the loss on a task's training examples to every direction, by matrix."""
        share = DataShare("training", {}, {task: self.measuring.tasks[task].train[:examples]})
        unit = {"sensitivities": sorted(directions), "task": task, "share": share.fingerprint()}
        self.tally.step("sensitivities")
        measured: dict[str, list[float]] | None = self.kept.get_plain(unit)
        if measured is None:
            measured = self._sensitivities(directions, task, share)
            self.kept.put_plain(unit, measured)
        return measured

    @property
    def other_names(self) -> list[str]:
        """The base's names of tuned tensors that no case is of."""
        return list(dict.fromkeys(name for live in self._live for name in live.other_names))

    def norm_of_others(self, elsewhere: Elsewhere) -> float:
        """Return the norm of what is left of the updates of these."""
        return self._live[0].norm_of_others(elsewhere)

    @property
    def _live(self) -> list[LiveInterventions]:
        return list(self.models.weights.values())

    def _sensitivities(
        self, directions: Mapping[str, SingularDirections], task: str, share: DataShare
    ) -> dict[str, list[float]]:
        opened, labels = self.models.scored[task]
        live = self.models.weights[id(opened.model)]
        live.reset()
        modules = live.modules_of(directions)
        if missing := [name for name in directions if name not in modules]:
            raise PairingError(
                f"the model that is measured has no module with the complete weight '{missing[0]}'; choose another "
                "remedy"
            )
        batches = task_batches(opened, self.measuring.tasks[task], share.examples[task], labels)
        at = {modules[name]: part for name, part in directions.items()}
        by_module = sensitivities(opened.model, batches, at)
        return {name: by_module[module].tolist() for name, module in modules.items()}
