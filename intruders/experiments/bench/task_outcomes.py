"""What a model makes of a task's examples: the loss of every target, and whether its answers are right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...data.task import Example, Task
from ...measures.losses import DocumentLosses
from ...measures.outcome import TaskOutcome
from ...models.answers import graded
from ...models.tuned_model import OpenedModel


def task_outcome(
    opened: OpenedModel, labels: Sequence[str], task: Task, examples: Sequence[Example], answers: bool
) -> TaskOutcome:
    """Measure the losses of the targets; with ``answers`` also which answers are right, if the task has right ones."""
    answers = answers and task.score != "none"
    grades = graded(opened, task, examples, labels=list(labels) or None, answers=answers)
    losses = DocumentLosses("target-loss", np.array(grades.losses), np.array(grades.tokens, dtype=np.int64))
    return TaskOutcome(losses, grades.right if answers else None, grades.reproduced)
