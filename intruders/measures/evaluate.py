"""Measure one model: its losses on text, compared with its base's, and its task scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoints.pairing.open_sides import on_disk
from ..checkpoints.writing.training_record import data_seed_of
from ..data.corpora import load_all
from ..data.halves import halves_of_corpus, halves_of_task
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import SettingError
from ..models.base_model import digest_of_model
from ..models.loading_settings import AS_STORED, Loading
from ..models.stored_dtype import dtype_name, dtype_to_load, recorded_dtypes
from ..models.tuned_model import base_location, check_for_task, weights_of
from ..settings.numbers import check_seeds
from ..system.callers_process import apart_from_caller
from ..system.files import user_path
from ..system.folders import working_folder
from ..system.progress import Progress, silent
from ..system.store import EVALUATIONS, Kept
from .corpus_loss import summarize_losses
from .evaluation import Evaluation, Measured, check_evaluation_folder
from .harness import check_harness
from .measure_settings import NO_HARNESS, NO_LOSSES, NO_SCORES, HarnessSettings, LossSettings, ScoreSettings
from .measured_model import MeasuredModel
from .task_score import scored_examples

_ON_REPORTED_HALF = "only the documents and examples that heal, scale and remedies report on were measured"


@apart_from_caller()
def evaluate(
    model: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    losses: LossSettings = NO_LOSSES,
    scores: ScoreSettings = NO_SCORES,
    harness: HarnessSettings = NO_HARNESS,
    data_seed: int | None = None,
    seed: int = 0,
    reported_half: bool = False,
    loading: Loading = AS_STORED,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
    measured: Callable[[Measured], None] = lambda measure: None,
) -> Evaluation:
    """Measure the loss and the accuracy of a model folder, run folder, adapter, Hub id or demo model.

    Every measure has a 95 % confidence interval. With ``base`` its loss is measured on the same tokens, and the
    difference gets a paired bootstrap interval over documents.

    Args:
      model: the model to measure.
      base: the model before fine-tuning, or None for no comparison.
      losses: the corpora, named as in ``intruders evaluate --loss-on``, and how losses are measured.
      scores: the tasks whose accuracy is measured.
      harness: the tasks of lm-evaluation-harness.
      data_seed: seed of the tasks' rows and splits, as in fine-tuning; by default that of the run.
      seed: seed of samples, masked tokens and the bootstrap.
      reported_half: measure only the documents and examples that :func:`intruders.heal`, a measured scale and
        :func:`intruders.compare_remedies` report on, at the same seeds and numbers of both.
      loading: how the models are loaded.
      out: folder for the result. Finished parts are kept there, so that the same call resumes after a kill.
      force: replace an earlier evaluation in ``out``.
      progress: called with (what is being done, done, in all).
      measured: called with every measure as soon as it is made, and at the end with every note.

    Returns:
      The measures.

    Raises:
      SettingError: nothing to measure, or a setting, corpus or task cannot be used.
      IntrudersError: the model or the base cannot be used.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``:

      >>> losses = LossSettings(loss_on=("pydoc",), max_documents=2, max_tokens=32)
      >>> result = evaluate("tuned", base="base", losses=losses)
      >>> [(loss.name, loss.loss.n) for loss in result.losses]
      [('pydoc', 2)]
    """
    if not (losses.loss_on or scores.tasks or harness.lm_eval):
        raise SettingError(
            "nothing to measure; expected a corpus (--loss-on) or a task (--task or --lm-eval)"
        )
    check_seeds(seed=seed, data_seed=data_seed)
    model, base = on_disk(model, "model"), None if base is None else on_disk(base, "base")
    folder = None if out is None else user_path(out)
    if folder is not None:
        check_evaluation_folder(folder, force)
    # Everything that can be wrong is found out before the first model is loaded.
    corpora = load_all(losses.loss_on, max_documents=losses.max_documents, seed=seed)
    rows_by = data_seed_of(model) if data_seed is None else data_seed
    tasks = [load_task(task, scores, rows_by) for task in scores.tasks]
    if reported_half:
        _refuse_without_halves(scores, harness)
        corpora = {
            name: [halves_of_corpus(part, seed)[1] for part in parts] for name, parts in corpora.items()
        }
        tasks = [_reported(task, scores.max_examples) for task in tasks]
    splits = [scored_examples(task, scores.split, scores.max_examples)[0] for task in tasks]
    for task in tasks:
        check_for_task(model, task, base)
    sources = [*weights_of(model, base), *([] if base is None else weights_of(base))]
    loaded = [base_location(model, base), *([] if base is None else [base_location(base, None)])]
    if harness.lm_eval:
        check_harness(harness)
    of: dict[str, Any] = {}  # what a kept measurement depends on
    if folder is not None:
        weights = [digest_of_model(source) for source in sources]
        of = {"form": "value and notes", "weights": weights, **recorded_dtypes(loading, loaded)}
    notes = _notes_on_dtypes(loading, loaded) + ([_ON_REPORTED_HALF] if reported_half else [])
    with working_folder(folder):
        work = MeasuredModel(
            source=model,
            base=base,
            kept=Kept(folder, of),
            losses=losses,
            seed=seed,
            loading=loading,
            progress=progress,
            notes=notes,
        )
        evaluation = Evaluation(model=model, base=base, losses=[], scores=[], harness=[], notes=notes)
        after, before = work.losses_of_both(corpora)
        for name, parts in corpora.items():
            told = summarize_losses(
                name, parts, after[name], None if before is None else before[name], seed=seed
            )
            evaluation.losses.append(told)
            measured(told)
        for task, split in zip(tasks, splits, strict=True):
            score = work.score(task, split, scores.max_examples)
            evaluation.scores.append(score)
            measured(score)
        if harness.lm_eval:
            for told_by_harness in work.harness(harness, scores.max_examples):
                evaluation.harness.append(told_by_harness)
                measured(told_by_harness)
        for note in notes:
            measured(note)
        if folder is not None:
            evaluation.save(folder)
            shutil.rmtree(folder / EVALUATIONS, ignore_errors=True)
    return evaluation


def _refuse_without_halves(scores: ScoreSettings, harness: HarnessSettings) -> None:
    """Raise SettingError for what has no reported half."""
    if scores.split is not None:
        raise SettingError(
            f"split is {scores.split!r}, and the reported half says which examples are scored; leave one out"
        )
    if harness.lm_eval:
        raise SettingError(
            f"lm_eval is {harness.lm_eval[0]!r}, whose examples have no reported half; measure it in a call of "
            "its own"
        )


def _reported(task: Task, max_examples: int | None) -> Task:
    """The same task with the reported examples alone in the split that is scored."""
    _, examples = halves_of_task(task, max_examples)
    return replace(task, test=examples) if task.test else replace(task, validation=examples)


def _notes_on_dtypes(loading: Loading, loaded: Sequence[str]) -> list[str]:
    """Return a note on the types of the models if they are not in single precision, which is the usual."""
    if loading.load_in is not None:
        return [
            f"measured with linear layers in {loading.load_in}, which changes the losses; the checkpoint is not"
        ]
    names = [dtype_name(dtype_to_load(location, loading)) for location in loaded]
    if set(names) == {"float32"}:
        return []
    if len(set(names)) == 1:
        return [f"measured in {names[0]}; losses are summed in double precision"]
    differ = (
        f"the model is measured in {names[0]} and its base in {names[1]}, so a part of the change is rounding; pass "
        "--dtype float32 to measure both in one type"
    )
    return [differ]
