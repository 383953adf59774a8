"""The tuned model in memory under any remedy: every evaluation once, measured or kept from an earlier call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..checkpoints.stored.names import tensor_of
from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.task import Example, Task
from ..measures.corpus_loss import losses_by_corpus
from ..measures.harness import digest_of_own_tasks, harness_items
from ..measures.losses import DocumentLosses, Outcome, TaskOutcome
from ..measures.measure_settings import NO_HARNESS, HarnessSettings, LossSettings, ScoreSettings
from ..measures.output_energy import documents_of, sample_inputs
from ..measures.sensitivities import sensitivities, task_batches
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.remedies.changes import Change
from ..mitigation.remedies.remedy import Case, Remedy
from ..mitigation.remedies.shares import Interpolate
from ..mitigation.tuned_matrices import TunedMatrices
from ..models.answers import graded
from ..models.loading_settings import Loading, require_whole_weights
from ..models.tuned_model import OpenedModel, open_for_task, open_language_model, reading_as
from ..system.progress import Progress
from ..system.store import Kept
from .data_shares import DataShare
from .experiment_settings import ALPHAS
from .question import Question, digest_of_intruders

ALONG_CURVE = tuple(Interpolate(alpha) for alpha in ALPHAS)
Scored = Mapping[str, OpenedModel]  # by task


@dataclass
class Tally:
    """The number of evaluations that are done and expected; the latter falls as some turn out not to be needed."""

    progress: Progress
    planned: int
    done: int = 0

    def step(self, what: str) -> None:
        self.progress(what, self.done, self.planned)
        self.done += 1


def task_outcome(opened: OpenedModel, task: Task, examples: Sequence[Example], answers: bool) -> TaskOutcome:
    """Measure the losses of the targets; with ``answers`` also which answers are right, if the task has right ones."""
    answers = answers and task.score != "none"
    grades = graded(opened, task, examples, answers=answers)
    losses = DocumentLosses("target-loss", np.array(grades.losses), np.array(grades.tokens, dtype=np.int64))
    return TaskOutcome(losses, grades.right if answers else None, grades.reproduced)


def answered_by(language: OpenedModel, tasks: Mapping[str, Task]) -> Scored:
    """Return the tasks that a causal language model answers itself."""
    if language.is_masked:
        return {}
    return {name: language for name, task in tasks.items() if task.kind == "causal"}


def opened_for_tasks(
    language: OpenedModel | None, tuned: str, base: str | None, loading: Loading, tasks: Mapping[str, Task]
) -> Scored:
    """Return every task with the model that it needs: the language model where that answers it, or one of its own."""
    shared = {} if language is None else answered_by(language, tasks)
    return {
        name: shared.get(name) or open_for_task(tuned, task, base, loading, merged=True)
        for name, task in tasks.items()
    }


def distinct_models(language: OpenedModel | None, scored: Scored) -> list[nn.Module]:
    """Return each model once, the language model first."""
    opened = [*([] if language is None else [language]), *scored.values()]
    return list({id(reader.model): reader.model for reader in opened}.values())


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
            own = digest_of_own_tasks(self.harness)
            unit["harness"] = {"tasks": list(self.harness.lm_eval), "own": own, "limit": self.harness_limit}
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
                name: task_outcome(opened, self.tasks[name], share.examples[name], answers)
                for name, opened in scored.items()
            },
            harness_items(language, self.harness, limit=self.harness_limit, seed=self.seed)
            if answers and self.harness.lm_eval and language is not None
            else {},
        )


def kept_outcomes(
    folder: Path | None, question: Question, measuring: Measuring, scores: ScoreSettings
) -> Kept:
    """Return the evaluations that a folder keeps of the models under remedies; without a folder nothing is hashed."""
    if folder is None:
        return Kept(None)
    trained, losses = FinetunedFolder.of(question.tuned), measuring.losses
    return Kept(
        folder,
        {
            **question.key(),
            "audit": question.audited.settings.recorded(),
            "intruders": digest_of_intruders(question.audited.audit),
            "tasks": {name: [task.kind, task.score, task.labels] for name, task in measuring.tasks.items()},
            "labels": trained.labels,
            "window": losses.window,
            "stride": losses.stride,
            "estimate": losses.estimate,
            "seed": measuring.seed,
            "max_new_tokens": scores.max_new_tokens,
            "max_tokens": losses.max_tokens,
            "score": scores.score,
        },
    )


@dataclass
class Bench:
    """A tuned model under remedies, and its base; what was measured before is kept.

    After :meth:`open` the tuned model is in memory: as a language model, and once more for tasks of another kind.
    """

    question: Question
    measuring: Measuring
    matrices: TunedMatrices
    kept: Kept
    tally: Tally
    language: OpenedModel | None = None  # None where no text is measured
    scored: Scored = field(default_factory=dict)
    # Of every model by its id, those of the language model first.
    live: dict[int, LiveInterventions] = field(default_factory=dict)

    def of_base(
        self, shares: Sequence[DataShare], *, answers_on: DataShare | None = None, scored: bool = True
    ) -> list[Outcome]:
        """Measure the base on every share, as the tuned model reads it; it is open only while it is measured.

        With ``scored`` also on the tasks that its language model can answer, whose answers count on one share.
        """
        tasks, question = self.measuring.tasks if scored else {}, self.question

        @cache
        def opened() -> OpenedModel:
            base = open_language_model(question.base_source, loading=question.loading)
            return reading_as(base, question.tuned)

        def measured(share: DataShare, answers: bool) -> Outcome:
            return self.measuring.outcome(opened(), answered_by(opened(), tasks), share, answers)

        outcomes: list[Outcome] = []
        for share in shares:
            self.tally.step("base")
            answers = share is answers_on
            unit = {"remedy": None, "tasks": list(tasks), **self.measuring.unit(share, answers)}
            outcomes.append(self.kept.once(unit, Outcome, partial(measured, share, answers)))
        return outcomes

    def open(self, *, changes_others: bool = True) -> None:
        """Open the tuned model; with ``changes_others`` remedies also change tensors that an audit does not examine."""
        require_whole_weights(self.question.loading)
        at = self.question.tuned, self.question.base, self.question.loading
        self.language = open_language_model(*at, merged=True) if self.measuring.losses.loss_on else None
        self.scored = opened_for_tasks(self.language, *at, self.measuring.tasks)
        base, others = self.matrices.base, list[str]()
        if changes_others:
            audited = {tensor_of(matrix.name) for matrix in self.matrices.audit.matrices}
            others = [name for name in base.names() if name not in audited]
        for model in distinct_models(self.language, self.scored):
            self.live[id(model)] = LiveInterventions(model, base, others)

    def use(self, cases: Sequence[Case]) -> None:
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
        """Return the evaluation of the tuned model under a remedy, which changes the matrices that are in use.

        With ``answers`` also which answers are right, and the tasks of lm-evaluation-harness. A ``control`` of another
        remedy has a label, and was matched on ``inputs``. The progress says ``step``.
        """
        self.tally.step(step or control or remedy.name)
        unit = {
            "remedy": remedy.name,
            "settings": remedy.recorded(),
            "control": control,
            "inputs": inputs,
            **self.measuring.unit(share, answers),
        }
        outcome: Outcome = self.kept.once(unit, Outcome, lambda: self.measured(remedy, share, answers))
        return outcome

    def measured(self, remedy: Remedy, share: DataShare, answers: bool) -> Outcome:
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
        live, base = self.first, ALONG_CURVE[0]
        live.set(base, self.matrices.elsewhere(base))
        modules, documents = live.in_memory.modules_of(names), documents_of(share.corpora)
        inputs = sample_inputs(self.language, modules, documents, self.measuring.seed)
        live.reset()
        return inputs

    def sensitivities(
        self, directions: Mapping[str, tuple[Tensor, Tensor]], task: str, examples: int
    ) -> dict[str, list[float]]:
        """Return the sensitivity of the loss on a task's training examples to every direction, by matrix."""
        of_task = self.measuring.tasks[task]
        share = DataShare("training", {}, {task: of_task.train[:examples]})
        unit = {"sensitivities": sorted(directions), "task": task, "share": share.fingerprint()}
        self.tally.step("sensitivities")

        def measured() -> dict[str, list[float]]:
            opened = self.scored[task]
            live = self.live[id(opened.model)]
            live.reset()
            batches = task_batches(opened, of_task, share.examples[task])
            modules = live.in_memory.modules_of(directions)
            return sensitivities(opened.model, batches, directions, modules)

        by_matrix: dict[str, list[float]] = self.kept.once(unit, dict[str, list[float]], measured)
        return by_matrix

    @property
    def other_names(self) -> list[str]:
        """The base's names of tuned tensors that no case is of."""
        return list(dict.fromkeys(name for live in self.live.values() for name in live.others))

    @property
    def first(self) -> LiveInterventions:
        return next(iter(self.live.values()))

    def norms_of_curve(self, cases: Sequence[Case]) -> list[float]:
        """Return the norms of all updates along the curve, 1 being the tuned model's; ``cases`` are its matrices."""
        sizes = UpdateSizes(self, cases, {})
        return [sizes.norm_and_output(remedy, cases)[0] for remedy in ALONG_CURVE]


class UpdateSizes:
    """Norm and output energy of what a remedy leaves of all tuned tensors together, 1 being the tuned model's.

    :func:`intruders.mitigation.mitigation_result.norm_left` is of the changed matrices alone.
    """

    def __init__(self, bench: Bench, cases: Sequence[Case], inputs: Mapping[str, Tensor]) -> None:
        """Take the cases of every audited matrix, and inputs (tokens, n) of the base for some of them."""
        self._norms = {matrix.name: matrix.update.frobenius for matrix in bench.matrices.audit.matrices}
        self._bench, self.inputs = bench, inputs
        self._energies = {
            case.matrix.name: Change().output_energy(case.update, inputs[case.matrix.name])
            for case in cases
            if case.matrix.name in inputs
        }

    def norm_and_output(self, remedy: Remedy, cases: Sequence[Case]) -> tuple[float, float | None]:
        """Return ``||D'||_F`` over all tuned tensors, and the mean ``||D'h||^2`` over all matrices, as shares of D's.

        Without inputs the second is None. A change of a matrix can take longer than both, so it is computed once.
        """
        norms, energies = dict(self._norms), dict(self._energies)
        for case in cases:
            name = case.matrix.name
            change, update = remedy.change(case).formed(case.update, case.base)
            norms[name] = change.norm_of(update)
            if name in energies:
                energies[name] = change.output_energy(update, self.inputs[name])
        left = self._bench.first.norm_of_others(self._bench.matrices.elsewhere(remedy))
        whole = math.hypot(*self._norms.values(), self._bench.first.norm_of_others())
        energy = math.fsum(self._energies.values())
        output = math.fsum(energies.values()) / energy if energy > 0 else None
        return math.hypot(*norms.values(), left) / whole, output
