"""One intervention: what the model measured under it, and its difference from another one."""

from __future__ import annotations

from dataclasses import dataclass

from ...measures.corpus_loss import CorpusLoss
from ...measures.intervals import Interval
from ...measures.task_score import TaskScore


@dataclass(frozen=True)
class Intervention:
    """The measures of the model under one intervention."""

    control: str  # "intruders", or the control in their place
    scale: float
    losses: dict[str, CorpusLoss]  # by corpus, with the change against the tuned model
    scores: dict[str, TaskScore]  # by task
    # Frobenius norm of the updates of all matrices with intruders, 1 being the tuned model's.
    update_norm: float = 1.0
    left_alone: int = 0  # matrices with intruders of which there is no such control
    gain: Interval | None = None  # over interpolation at equal task loss; None without its curve
    gain_against_intruders: Interval | None = None  # of a control: minus that of the intruders at its scale


@dataclass(frozen=True)
class Trade:
    """The difference of two interventions: negative losses and positive accuracies are better."""

    losses: dict[str, Interval]  # nats a token, by corpus
    accuracies: dict[str, Interval]  # shares, by task
