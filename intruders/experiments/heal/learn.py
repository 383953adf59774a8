"""Learn the doses on an opened bench, from the smallest interpolation that keeps the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...charts.text import plural
from ...data.corpora import documents_in
from ...system.progress import Progress
from ..doses.encoded import encoded_examples, encoded_texts
from .heal_bench import HealBench
from .heal_data import HealData
from .heal_settings import HealSettings
from .healing import LITTLE
from .learning import Learning, Measured
from .objective import Objective, StepLosses
from .open_bench import OpenedBench
from .reported_points import HALVINGS, least_dose
from .work_folder import NOWHERE, WorkFolder

Told = Callable[[str], None]

_FEW = 8  # documents or examples; fewer choose and tell little
_STRANGE = 5.0  # nats per token of the base, on text that it does not know


def untold(line: str) -> None:
    """Ignore a line for people."""


@dataclass(frozen=True)
class Learned:
    """The doses that are kept, and how they were learned."""

    values: list[float]
    best: Measured  # the measures of the kept state
    start: float  # the interpolation that learning started from
    measured: Sequence[Measured]  # of every state on the half that chooses
    notes: Sequence[str]  # what a person should know before the learning starts


def learn(
    opened: OpenedBench,
    settings: HealSettings,
    seed: int,
    progress: Progress,
    *,
    told: Told = untold,
    work: WorkFolder = NOWHERE,
) -> Learned:
    """Learn the doses on the half that chooses; an interrupted learning in ``work`` resumes."""
    bench, data = opened.bench, opened.data
    notes, most, start = _start(bench, data, settings, progress, told)
    model, labels = bench.scored[data.task]
    values = torch.full_like(bench.doses.values, start, requires_grad=True)
    bench.doses.values = values
    objective = Objective(
        bench.language,
        model,
        bench.doses,
        [encoded_texts(bench.language, part, settings.max_tokens) for part in data.learned_text],
        [part.weight for part in data.learned_text],
        encoded_examples(model, bench.measuring.tasks[data.task], data.learned_examples, labels),
        seed,
    )

    def measure(step: int, allowed: float) -> Measured:
        doses = values.detach().tolist()
        task = bench.task_loss(doses, data.choice, data.task)
        return Measured(step, task, bench.text_loss(doses, data.choice) if task <= allowed else None)

    def tell(step: int, losses: StepLosses) -> None:
        said = f"learn: divergence from the base {losses.text:.3f}, from the tuned model {losses.task:.4f}"
        progress(said, step, settings.steps)

    learning = Learning(values, settings, objective.gradient, measure, most, work.keep_learning, tell)
    state = work.learning()
    if state is not None:
        learning.resume(state)
        told(f"resumed after step {state['step']} of {settings.steps}")
    progress("learn", 0, settings.steps)
    best, doses = learning.run()
    return Learned(doses, best, start, learning.measured, notes)


def _start(
    bench: HealBench, data: HealData, settings: HealSettings, progress: Progress, told: Told
) -> tuple[list[str], float, float]:
    """Return the notes before the start, the allowed task loss, and the interpolation to start from."""
    steps = 4 + HALVINGS
    base, tuned = bench.groups.everywhere(0.0), bench.groups.everywhere(1.0)
    progress("measure the base", 0, steps)
    text_base, task_base = bench.text_loss(base, data.choice), bench.task_loss(base, data.choice, data.task)
    progress("measure the tuned model", 2, steps)
    text_tuned, task_tuned = (
        bench.text_loss(tuned, data.choice),
        bench.task_loss(tuned, data.choice, data.task),
    )
    notes = _warnings(data, text_base, text_tuned, task_base, task_tuned)
    for note in notes:
        told(note)
    most = task_tuned + settings.allow
    progress("find the interpolation to start from", 4, steps)
    return notes, most, least_dose(bench, data, most)


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
            f"little was forgotten: the loss on {data.corpus} changed by {forgotten:+.3f} nats per token, so there is "
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
