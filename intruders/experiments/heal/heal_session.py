"""One healing: open the models, learn the doses and measure what they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ...charts.text import plural
from ...data.corpora import Corpora, digests_of, documents_in
from ...data.task import Task
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.measure_settings import LossSettings
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.tuned_matrices import TunedMatrices
from ...models.loading_settings import Loading
from ...models.stored_dtype import dtype_name
from ...models.tuned_model import OpenedModel
from ...system.progress import Progress
from ..bench.given_sides import OpenedSides
from ..bench.live_models import Scored
from ..bench.measuring import Measuring
from ..doses.encoded import encoded_examples, encoded_texts
from ..doses.open_to_dose import in_doses, open_to_dose
from ..doses.updates import Updates, read_updates
from .heal_bench import HealBench
from .heal_data import HealData, data_of, own_answers, task_of_prompts
from .heal_settings import HealSettings
from .healing import LITTLE, Healing
from .learning import LEAST, MOST, Learning, Measured, at_bounds
from .objective import Objective, StepLosses
from .reported_points import HALVINGS, ReportMeasuring, least_dose, reported_points
from .work_folder import WorkFolder

Told = Callable[[str], None]

_FEW = 8  # documents or examples; fewer choose and tell little
_STRANGE = 5.0  # nats per token of the base, on text that it does not know
_MEASURES = 11  # on the half that is reported, about


def untold(line: str) -> None:
    """Ignore a line for people."""


@dataclass(frozen=True)
class Session:
    """One healing: opens the models, learns the doses and measures them."""

    sides: OpenedSides
    settings: HealSettings
    seed: int
    progress: Progress
    told: Told
    loading: Loading
    max_examples: int | None
    work: WorkFolder | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    task_settings: Mapping[str, Any] = field(default_factory=dict)  # by which the tasks are scored again

    def healed(
        self,
        corpora: Corpora,
        tasks: Mapping[str, Task],
        prompts: Sequence[str] | None,
        matrices: TunedMatrices,
    ) -> Healing:
        """Learn the doses and measure the models, before anything is written."""
        with self.benched(corpora, tasks, prompts) as (bench, data, updates):
            notes, most, start = self.start(bench, data)
            best, values, measured = self.learned(bench, data, start, most)
            return self._reported(bench, data, updates, values, best, start, measured, notes, matrices)

    @contextmanager
    def benched(
        self, corpora: Corpora, tasks: Mapping[str, Task], prompts: Sequence[str] | None
    ) -> Iterator[tuple[HealBench, HealData, Updates]]:
        """Open the models with their updates in doses, and the data, within the block."""
        pairs = self.sides.pairs  # refuses models that do not match before either is opened
        self.progress("open the models", 0, 1)
        language, scored = self._opened(tasks)
        device = next(language.model.parameters()).device
        dtype = language.dtype
        updates = read_updates(pairs, self.settings.per, device, self.progress, dtype)
        if not updates.names:
            raise SettingError(
                f"'{self.sides.tuned}' changes nothing in '{self.sides.base_source}', so there is nothing to heal; "
                "pass the model after fine-tuning"
            )
        in_models = in_doses(language, scored, self.sides, updates, self.settings.per, tasks)
        with in_models as (groups, doses):
            if prompts is not None:
                task = self._task_of(prompts, language)
                tasks, scored = {task.name: task}, {task.name: (language, [])}
            data = data_of(corpora, tasks, self.max_examples, self.seed)
            kept = KeptOutcomes(None if self.work is None else self.work.folder, dict(self.key))
            losses = LossSettings(max_tokens=self.settings.max_tokens, estimate=self.settings.estimate)
            yield (
                HealBench(
                    language,
                    scored,
                    Measuring(losses, tasks, self.seed),
                    self.sides.stacks,
                    groups,
                    doses,
                    kept,
                ),
                data,
                updates,
            )

    def _opened(self, tasks: Mapping[str, Task]) -> tuple[OpenedModel, Scored]:
        language, scored = open_to_dose(self.sides, tasks, self.loading)
        causal = [name for name, task in tasks.items() if task.kind == "causal"]
        if language.is_masked and (causal or not tasks):
            what = f"task {causal[0]!r} wants" if causal else "prompts want"
            raise SettingError(
                f"'{self.sides.base_source}' is a masked language model, and {what} one that writes; pass a "
                "task of classes"
            )
        return language, scored

    def _task_of(self, prompts: Sequence[str], language: OpenedModel) -> Task:
        answers = None if self.work is None else self.work.answers()
        if answers is None:
            self.progress(f"answer {len(prompts)} prompts", 0, 1)
            answers = own_answers(language, prompts)
            if self.work is not None:
                self.work.keep_answers(answers)
        return task_of_prompts(prompts, answers, self.seed)

    def start(self, bench: HealBench, data: HealData) -> tuple[list[str], float, float]:
        """Return the notes before the start, the allowed task loss, and the interpolation to start from."""
        steps = 4 + HALVINGS
        base, tuned = bench.groups.everywhere(0.0), bench.groups.everywhere(1.0)
        self.progress("measure the base", 0, steps)
        text_base, task_base = (
            bench.text_loss(base, data.choice),
            bench.task_loss(base, data.choice, data.task),
        )
        self.progress("measure the tuned model", 2, steps)
        text_tuned, task_tuned = (
            bench.text_loss(tuned, data.choice),
            bench.task_loss(tuned, data.choice, data.task),
        )
        notes = _warnings(data, text_base, text_tuned, task_base, task_tuned)
        for note in notes:
            self.told(note)
        most = task_tuned + self.settings.allow
        self.progress("find the interpolation to start from", 4, steps)
        return notes, most, least_dose(bench, data, most)

    def learned(
        self, bench: HealBench, data: HealData, start: float, most: float
    ) -> tuple[Measured, list[float], list[Measured]]:
        opened, labels = bench.scored[data.task]
        values = torch.full_like(bench.doses.values, start, requires_grad=True)
        bench.doses.values = values
        objective = Objective(
            bench.language,
            opened,
            bench.doses,
            encoded_texts(bench.language, data.learned_text, self.settings.max_tokens),
            encoded_examples(opened, bench.measuring.tasks[data.task], data.learned_examples, labels),
            self.seed,
        )

        def measure(step: int, allowed: float) -> Measured:
            doses = values.detach().tolist()
            task = bench.task_loss(doses, data.choice, data.task)
            return Measured(step, task, bench.text_loss(doses, data.choice) if task <= allowed else None)

        def told(step: int, losses: StepLosses) -> None:
            said = (
                f"learn: divergence from the base {losses.text:.3f}, from the tuned model {losses.task:.4f}"
            )
            self.progress(said, step, self.settings.steps)

        learning = Learning(
            values,
            self.settings,
            objective.gradient,
            measure,
            most,
            (lambda state: None) if self.work is None else self.work.keep_learning,
            told,
        )
        state = None if self.work is None else self.work.learning()
        if state is not None:
            learning.resume(state)
            self.told(f"resumed after step {state['step']} of {self.settings.steps}")
        self.progress("learn", 0, self.settings.steps)
        best, doses = learning.run()
        return best, doses, learning.measured

    def _reported(
        self,
        bench: HealBench,
        data: HealData,
        updates: Updates,
        values: list[float],
        best: Measured,
        start: float,
        measured: Sequence[Measured],
        notes: list[str],
        matrices: TunedMatrices,
    ) -> Healing:
        done = iter(range(_MEASURES + 1))

        def step(name: str) -> None:
            self.progress(name, min(next(done, _MEASURES), _MEASURES), _MEASURES)

        removing = _removing(matrices, updates)
        points = reported_points(
            ReportMeasuring(bench, data, step), values, updates.shapes, removing, self.seed
        )
        count = at_bounds(values)
        if count:
            notes = [
                *notes,
                f"{count} of {len(values)} doses are at the end of their range, {LEAST:g} or {MOST:g}",
            ]
        healing = Healing(
            base=self.sides.base_source,
            tuned=self.sides.tuned,
            out=None,
            form="",
            per=self.settings.per,
            task=data.task,
            corpus=data.corpus,
            start=start,
            step=best.step,
            doses=bench.groups.by_matrix(values),
            elsewhere=bench.groups.elsewhere(values),
            points=points,
            learning=[state.as_dict() for state in measured],
            documents={name: documents_in(parts) for name, parts in data.report.corpora.items()},
            examples={name: len(rows) for name, rows in data.report.examples.items()},
            digests=digests_of(data.report.corpora),
            settings={
                **self.settings.as_dict(),
                **self.task_settings,
                "seed": self.seed,
                "dtype": self.loading.load_in or dtype_name(bench.language.dtype),
            },
            intruders_before=matrices.audit.intruders,
            intruders_after=None,
            at_bounds=count,
            notes=notes,
            of=self.key,
        )
        return healing.finished(notes=[*notes, *healing.gaps()])


def session_of(
    sides: OpenedSides,
    settings: HealSettings,
    seed: int,
    progress: Progress,
    loading: Loading,
    max_examples: int | None = None,
) -> Session:
    """Return a session that writes nothing to disk."""
    return Session(
        sides,
        settings,
        seed,
        progress,
        untold,
        loading,
        settings.max_examples if max_examples is None else max_examples,
    )


def _removing(matrices: TunedMatrices, updates: Updates) -> dict[str, LowRank]:
    """Return the low-rank matrices that remove the intruders, by matrix."""
    if matrices.audit.intruders == 0:
        return {}
    remedy = ScaledIntruders(0.0)
    changes = {case.matrix.name: remedy.change(case).added for case in matrices.read([remedy])}
    return {name: added for name, added in changes.items() if added is not None and name in updates.by_name}


def _warnings(
    data: HealData, text_base: float, text_tuned: float, task_base: float, task_tuned: float
) -> list[str]:
    """Return what a person should know before the learning starts."""
    warnings = []
    documents = documents_in(data.choice.corpora[data.corpus])
    for name, what, count, more in (
        (data.corpus, "document", documents, "--max-documents"),
        (data.task, "example", len(data.choice.examples[data.task]), "--max-examples"),
    ):
        if count < _FEW:
            warnings.append(
                f"{plural(count, what)} of {name} choose which doses are kept; expected {_FEW} or more; pass more "
                f"data, or a larger {more}"
            )
    forgotten = text_tuned - text_base
    if forgotten < LITTLE:
        warnings.append(
            f"little was forgotten: the loss on {data.corpus} rose by {forgotten:.3f} nats per token, so there is "
            "little to heal"
        )
    if text_base > _STRANGE:
        warnings.append(
            f"the base itself has a loss of {text_base:.1f} nats per token on {data.corpus}: expected text such as it "
            "was trained on, in a language that it knows"
        )
    if task_tuned >= task_base:
        warnings.append(
            f"the tuned model is not better at {data.task} than the base (loss {task_tuned:.4f} and {task_base:.4f}): "
            "check that this is the task that it was tuned for"
        )
    return warnings
