"""The tuned model in memory under any remedy: every evaluation once, measured or kept from an earlier call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..checkpoints.writing.merged import Elsewhere
from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.task import Example, Task
from ..errors import PairingError
from ..measures.base_inputs import documents_of, sample_inputs
from ..measures.corpus_loss import losses_by_corpus
from ..measures.harness import digest_of_own_tasks, harness_items
from ..measures.kept_outcomes import KeptOutcomes, digest_of_intruders
from ..measures.losses import DocumentLosses
from ..measures.measure_settings import NO_HARNESS, HarnessSettings, LossSettings, ScoreSettings
from ..measures.outcome import Outcome, TaskOutcome
from ..measures.sensitivities import SingularDirections, sensitivities, task_batches
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.remedies.remedy import Case, Remedy
from ..mitigation.remedies.shares import Interpolate
from ..mitigation.tuned_matrices import TunedMatrices, not_audited
from ..models.answers import graded
from ..models.loading_settings import Loading, require_whole_weights
from ..models.tuned_model import OpenedModel, open_for_task, open_language_model
from ..system.progress import Progress
from .data_shares import DataShare
from .question import Question
from .yardstick import ALPHAS

# From the base to the tuned model.
ALONG_CURVE = tuple(Interpolate(alpha) for alpha in ALPHAS)


Scored = Mapping[str, tuple[OpenedModel, list[str]]]  # by task, the model and its labels in order


class Tally:
    """The number of evaluations that are done and expected; the latter falls as some turn out not to be needed."""

    def __init__(self, progress: Progress, planned: int) -> None:
        self._progress, self._done, self._planned = progress, 0, planned

    def step(self, what: str) -> None:
        """Report that an evaluation begins."""
        self._progress(what, self._done, self._planned)
        self._done += 1

    def skip(self, count: int) -> None:
        """Take evaluations that are not needed from the number expected."""
        self._planned -= count

    @property
    def done(self) -> int:
        return self._done


def task_outcome(
    opened: OpenedModel, labels: Sequence[str], task: Task, examples: Sequence[Example], answers: bool
) -> TaskOutcome:
    """Measure the losses of the targets; with ``answers`` also which answers are right, if the task has right ones."""
    answers = answers and task.score != "none"
    grades = graded(opened, task, examples, labels=list(labels) or None, answers=answers)
    losses = DocumentLosses("target-loss", np.array(grades.losses), np.array(grades.tokens, dtype=np.int64))
    return TaskOutcome(losses, grades.right if answers else None, grades.reproduced)


def answered_by(language: OpenedModel, tasks: Mapping[str, Task]) -> Scored:
    """Return the tasks that a causal language model answers itself."""
    if language.is_masked:
        return {}
    return {name: (language, []) for name, task in tasks.items() if task.kind == "causal"}


def opened_for_tasks(
    language: OpenedModel | None, tuned: str, base: str | None, loading: Loading, tasks: Mapping[str, Task]
) -> Scored:
    """Return every task with the model that it needs: the language model where that answers it, or one of its own."""
    shared = {} if language is None else answered_by(language, tasks)
    return {
        name: shared.get(name) or open_for_task(tuned, task, base, loading, merged=True)
        for name, task in tasks.items()
    }


@dataclass(frozen=True)
class Measuring:
    """The settings by which a model is measured."""

    losses: LossSettings
    tasks: Mapping[str, Task]
    seed: int
    harness: HarnessSettings = NO_HARNESS
    harness_limit: int | None = None  # examples of each of its tasks

    def unit(self, share: DataShare, answers: bool) -> dict[str, Any]:
        """Return everything except the model that an evaluation depends on."""
        unit: dict[str, Any] = {"share": share.fingerprint(), "answers": answers}
        if answers and self.harness.lm_eval:
            unit |= {
                "harness": {
                    "tasks": list(self.harness.lm_eval),
                    "own": digest_of_own_tasks(self.harness),
                    "limit": self.harness_limit,
                }
            }
        return unit

    def outcome(
        self, language: OpenedModel | None, scored: Scored, share: DataShare, answers: bool
    ) -> Outcome:
        """Measure the losses of every document and example of a share.

        With ``answers`` also measure which answers are right, and the tasks of lm-evaluation-harness. Without a
        language model no text is read.
        """
        return Outcome(
            {} if language is None else losses_by_corpus(language, share.corpora, self.losses, self.seed),
            {
                name: task_outcome(opened, labels, self.tasks[name], share.examples[name], answers)
                for name, (opened, labels) in scored.items()
            },
            harness_items(language, self.harness, limit=self.harness_limit, seed=self.seed)
            if answers and self.harness.lm_eval and language is not None
            else {},
        )


def kept_outcomes(
    folder: Path | None,
    question: Question,
    measuring: Measuring,
    scores: ScoreSettings,
    data: DataShare | None = None,
) -> KeptOutcomes:
    """Return the evaluations that a folder keeps of the models under remedies; without a folder nothing is hashed.

    With ``data`` all evaluations are of these documents and examples.
    """
    if folder is None:
        return KeptOutcomes(None, {})
    trained, losses = FinetunedFolder.of(question.tuned), measuring.losses
    return KeptOutcomes(
        folder,
        {
            **question.key(),
            "audit": question.audited.settings.recorded(),
            "intruders": digest_of_intruders(question.audited.audit),
            "tasks": {name: [task.kind, task.score, task.labels] for name, task in measuring.tasks.items()},
            "labels": None if trained is None else trained.labels,
            "window": losses.window,
            "stride": losses.stride,
            "estimate": losses.estimate,
            "seed": measuring.seed,
            "max_new_tokens": scores.max_new_tokens,
            **({} if losses.max_tokens is None else {"max_tokens": losses.max_tokens}),
            **({} if scores.score is None else {"score": scores.score}),
            **({} if data is None else {"data": data.fingerprint()}),
        },
    )


@dataclass
class Bench:
    """The models that measure a tuned model: as a language model, and one more for tasks of another kind."""

    language: OpenedModel | None  # None where no text is measured
    scored: Scored
    live: Mapping[int, LiveInterventions]  # of every model by its id, those of the language model first
    measuring: Measuring
    matrices: TunedMatrices
    kept: KeptOutcomes
    tally: Tally
    has_one_share: bool  # all evaluations are on the data that the folder is of
    # Of this call, so that nothing is measured twice where there is no folder.
    _seen: dict[str, Outcome] = field(default_factory=dict)

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        for interventions in self.live.values():
            interventions.use(cases)

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
        unit: dict[str, Any] = {"remedy": remedy.name}
        if self.has_one_share:
            unit |= {"settings": remedy.recorded_by_name(), "answers": answers}
        else:
            unit |= {"settings": remedy.recorded(), "control": control, "inputs": inputs}
            unit |= self.measuring.unit(share, answers)
        key = json.dumps(unit, sort_keys=True)
        outcome = self._seen.get(key) or self.kept.get(unit)
        if outcome is None:
            outcome = self.measured(remedy, share, answers)
            self.kept.put(unit, outcome)
        self._seen[key] = outcome
        return outcome

    def measured(self, remedy: Remedy, share: DataShare, answers: bool) -> Outcome:
        """Measure the tuned model under a remedy."""
        for interventions in self.live.values():
            interventions.set(remedy, self.matrices.elsewhere(remedy))
        return self.measuring.outcome(self.language, self.scored, share, answers)

    def along_curve(
        self, share: DataShare, *, answers: bool = False, base: Outcome | None = None, step: str | None = None
    ) -> list[Outcome]:
        """Measure interpolation from the base, or take the ``base`` as it was measured, to the tuned model.

        The matrices of ``ALONG_CURVE`` are in use. ``answers`` are those of the tuned model alone.
        """
        first, *inner, tuned = ALONG_CURVE
        return [
            base or self.outcome(first, share, step=step),
            *(self.outcome(remedy, share, step=step) for remedy in inner),
            self.outcome(tuned, share, answers=answers, step=step),
        ]

    def inputs(self, names: Sequence[str], share: DataShare) -> dict[str, Tensor]:
        """Sample the base's inputs of matrices; those of ``ALONG_CURVE`` are in use."""
        assert self.language is not None  # without text no inputs are asked for
        live, base = self._first, ALONG_CURVE[0]
        live.set(base, self.matrices.elsewhere(base))
        documents = documents_of(share.corpora)
        inputs = sample_inputs(self.language, live.modules_of(names), documents, self.measuring.seed)
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
        return list(dict.fromkeys(name for live in self.live.values() for name in live.other_names))

    def norm_of_others(self, elsewhere: Elsewhere) -> float:
        """Return the norm of what is left of the updates of these."""
        return self._first.norm_of_others(elsewhere)

    @property
    def _first(self) -> LiveInterventions:
        return next(iter(self.live.values()))

    def _sensitivities(
        self, directions: Mapping[str, SingularDirections], task: str, share: DataShare
    ) -> dict[str, list[float]]:
        opened, labels = self.scored[task]
        live = self.live[id(opened.model)]
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


@contextmanager
def open_bench(
    question: Question,
    measuring: Measuring,
    matrices: TunedMatrices,
    kept: KeptOutcomes,
    tally: Tally,
    *,
    changes_others: bool = True,
    reads_text: bool = True,
    has_one_share: bool = False,
) -> Iterator[Bench]:
    """Open the tuned model within the block.

    Args:
      question: the models.
      measuring: what is measured of them.
      matrices: that remedies may change.
      kept: the evaluations that are done.
      tally: of the evaluations to do.
      changes_others: whether remedies also change tuned tensors that an audit does not examine.
      reads_text: whether text is measured.
      has_one_share: whether all evaluations are on the data that ``kept`` is of.
    """
    require_whole_weights(question.loading)
    at = question.tuned, question.base, question.loading
    language = open_language_model(*at, merged=True) if reads_text else None
    scored = opened_for_tasks(language, *at, measuring.tasks)
    opened = [*([] if language is None else [language]), *(of_task for of_task, _ in scored.values())]
    models = {id(reader.model): reader.model for reader in opened}
    others = not_audited(matrices.base, matrices.audit) if changes_others else []
    with ExitStack() as contexts:
        live = {
            number: contexts.enter_context(
                LiveInterventions(model, matrices.base, (), others, recomputes=True)
            )
            for number, model in models.items()
        }
        yield Bench(language, scored, live, measuring, matrices, kept, tally, has_one_share)
