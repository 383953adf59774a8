"""One scale for the complete update, chosen by its forgetting and its cost for the task."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.columns import Columns
from ..data.task import names_given
from ..models.loading_settings import AS_STORED, Loading
from ..system.callers_process import apart_from_caller
from ..system.progress import Progress, silent
from ..system.result_protocol import JsonResult
from .data_shares import load_tasks, load_texts
from .experiment_settings import ALPHAS, HEALING, HealSettings
from .healing import BASE, TUNED
from .open_dosed import open_to_heal
from .point import CurveOfScales, HealedPoint
from .question import Question
from .report_healing import Report

CHOSEN = "chosen"

# Scales on either side of the best one along the curve of interpolation.
_FINER = 4


@dataclass(frozen=True)
class ScaleChoice(JsonResult):
    """The scale with the least forgetting whose task loss is allowed, and what it measured on the other half.

    Attributes:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      task: the task that is kept.
      corpus: the text that is remembered.
      allow: the allowed rise of the task loss, in nats per token.
      scale: the chosen s of W0 + s D.
      curve: the losses at every scale, on the half that chooses.
      points: the base, the tuned and the chosen model, on the half that is reported.
    """

    what = "the choice of a scale"

    base: str
    tuned: str
    task: str
    corpus: str
    allow: float
    scale: float
    curve: Sequence[CurveOfScales]
    points: Sequence[HealedPoint]


@apart_from_caller()
def choose_scale(
    base: str | os.PathLike[str] | None,
    tuned: str | os.PathLike[str] | None = None,
    *,
    task: str | Sequence[str] = (),
    loss_on: str | Sequence[str] = (),
    settings: HealSettings = HEALING,
    columns: Columns | None = None,
    data_seed: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STORED,
    progress: Progress = silent,
) -> ScaleChoice:
    """Choose the scale s of ``W0 + s D`` with the least loss on text, at a task loss that is allowed.

    Nothing is copied: the model computes with base and update separately. Eleven scales from 0 to 1 are measured on
    the half that chooses, and four more on either side of the best.

    Args:
      base: the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter.
      task: the tasks to keep; the scale is chosen by the first.
      loss_on: text such as the base was trained on; the scale is chosen by the first corpus.
      settings: ``allow``, ``max_documents``, ``max_tokens`` and ``max_examples`` count.
      columns: the columns of a data file and their meaning.
      data_seed: seed of the task's rows; by default that of the run.
      seed: seed of halves and samples.
      loading: how the models are loaded.
      progress: called with (what is being done, done, in all).

    Returns:
      The scale, the losses of every scale on the half that chose, and what was measured on the other half.

    Raises:
      SettingError: no task or no text is given.
      IntrudersError: as :func:`intruders.heal` raises it.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``:

      >>> few = HealSettings(max_documents=4, max_tokens=32, max_examples=2)
      >>> choice = choose_scale("base", "tuned", task="word-problems", loss_on="pydoc", settings=few)
      >>> 0 <= choice.scale <= 1
      True
    """
    question = Question.about(base, tuned, data_seed, seed, loading=loading, progress=progress)
    tasks = load_tasks(question, names_given(task), columns or Columns(), None)
    corpora = load_texts(names_given(loss_on), settings, seed)
    curve: dict[float, CurveOfScales] = {}
    in_all = len(ALPHAS) + 2 * _FINER

    def best_of(scales: Sequence[float]) -> float:
        """Measure further scales, and return the best of all whose task loss is allowed."""
        for scale in scales:
            progress("measure scales", len(curve), in_all)
            state, choice = bench.everywhere(scale), bench.data.choice
            task_loss = bench.on_task(state, choice).loss
            curve[scale] = CurveOfScales(scale, bench.text_loss(state, choice), task_loss)
        most = curve[1.0].task_loss + settings.allow
        allowed = [point for point in curve.values() if point.task_loss <= most]
        return min(allowed, key=lambda point: point.text_loss).scale

    bench = open_to_heal(question, corpora, tasks, settings)
    best, step = best_of(ALPHAS), 0.1 / (_FINER + 1)
    around = [best + step * number for number in range(-_FINER, _FINER + 1) if number]
    best = best_of([round(scale, 2) for scale in around if 0 < scale < 1])
    doses = {BASE: 0.0, CHOSEN: best, TUNED: 1.0}
    outcomes = {
        name: bench.outcome(bench.everywhere(dose), bench.data.report, answers=True)
        for name, dose in doses.items()
    }
    report = Report(bench, list(outcomes.values()))
    return ScaleChoice(
        base=question.base_source,
        tuned=question.tuned,
        task=bench.data.task,
        corpus=bench.data.corpus,
        allow=settings.allow,
        scale=best,
        curve=[curve[scale] for scale in sorted(curve)],
        points=[report.point(name, outcomes[name], doses[name]) for name in (BASE, TUNED, CHOSEN)],
    )
