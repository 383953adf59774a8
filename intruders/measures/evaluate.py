"""Measure one model: its losses on text, compared with its base's, and its task scores."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any

from ..checkpoints.pairing.open_sides import on_disk
from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.corpora import Corpora, halves_of_corpora, load_all
from ..data.load_task import load_task
from ..data.task import Example, Task, halves_of_task
from ..errors import SettingError
from ..models.answers import BATCH, graded
from ..models.base_model import digest_of_model
from ..models.encoding import encode_classification
from ..models.given_model import GivenModel
from ..models.loading import load_tokenizer
from ..models.loading_settings import AS_STORED, Loading
from ..models.memory_plan import memory_plan
from ..models.stored_dtype import dtype_name, dtype_to_load, recorded_dtypes
from ..models.tuned_model import (
    OpenedModel,
    can_go_on,
    check_for_task,
    open_for_task,
    open_language_model,
    put_on,
)
from ..settings.numbers import check_seeds
from ..system.callers_process import apart_from_caller
from ..system.files import user_path
from ..system.folders import working_folder
from ..system.plain_values import from_plain, plain
from ..system.progress import Progress, silent
from ..system.store import EVALUATIONS, Kept
from ..system.words import plural
from .corpus_loss import losses_by_corpus, mixed_difference, require_read_alike, summarize_losses
from .evaluation import Evaluation, Measured, check_evaluation_folder
from .harness import HarnessScore, check_harness, digest_of_own_tasks, harness_scores
from .losses import DocumentLosses
from .measure_settings import NO_HARNESS, NO_LOSSES, NO_SCORES, HarnessSettings, LossSettings, ScoreSettings
from .task_score import TaskScore, score_of_answers, scored_examples
from .text_loss import ids_of

_ON_REPORTED_HALF = "only the documents and examples that heal, scale and remedies report on were measured"


@apart_from_caller()
def evaluate(
    model: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    also: Sequence[str | os.PathLike[str]] = (),
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
      also: what was made of the model, step by step, such as its merge and that in 4 bits. Losses of each are measured
        on the same tokens, and compared with the base and with the model before it.
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
    later = [on_disk(other, "also") for other in also]
    if later and (base is None or not losses.loss_on or scores.tasks or harness.lm_eval):
        raise SettingError(
            f"also is {later[0]!r}, whose part of a loss is measured; expected a base and a text, and no task; pass "
            "--base and --loss-on, and tasks in a command of their own"
        )
    if len({model, *later}) <= len(later):
        raise SettingError(
            f"also is {later}; expected every model once, and others than {model!r}; leave one out"
        )
    folder = None if out is None else user_path(out)
    if folder is not None:
        check_evaluation_folder(folder, force)
    # Everything that can be wrong is found out before the first model is loaded.
    corpora = load_all(losses.loss_on, max_documents=losses.max_documents, seed=seed)
    rows_by = FinetunedFolder.of(model).data_seed if data_seed is None else data_seed
    tasks = [load_task(task, scores, rows_by) for task in scores.tasks]
    if reported_half:
        if scores.split is not None:
            raise SettingError(
                f"split is {scores.split!r}, and the reported half says which examples are scored; leave one out"
            )
        if harness.lm_eval:
            raise SettingError(
                f"lm_eval is {harness.lm_eval[0]!r}, whose examples have no reported half; measure it in a call of "
                "its own"
            )
        _, corpora = halves_of_corpora(corpora, seed)
        for number, task in enumerate(tasks):
            _, rows = halves_of_task(task, scores.max_examples)
            tasks[number] = replace(task, test=rows) if task.test else replace(task, validation=rows)
    splits = [scored_examples(task, scores.split, scores.max_examples)[0] for task in tasks]
    # The model, its base, and those made of it.
    of_base = [] if base is None else [GivenModel(base)]
    every = [GivenModel(model, base), *of_base, *(GivenModel(other, base) for other in later)]
    for task in tasks:
        check_for_task(every[0], task)
    loaded = [given.location for given in every]
    sources = [weights for given in every for weights in given.weights()]
    if harness.lm_eval:
        check_harness(harness)
    of: dict[str, Any] = {}  # what a kept measurement depends on
    if folder is not None:
        weights = [digest_of_model(source) for source in sources]
        of = {"form": "value and notes", "weights": weights, **recorded_dtypes(loading, loaded)}
    notes = _notes_on_dtypes(loading, loaded) + ([_ON_REPORTED_HALF] if reported_half else [])
    with working_folder(folder):
        work = MeasuredModel(model, base, Kept(folder, of), losses, seed, loading, progress, notes)
        evaluation = Evaluation(model=model, base=base, notes=notes)
        before = None if base is None else work.text_losses("base", base, corpora)
        after = work.text_losses("model", model, corpora)
        evaluation.losses.extend(summarize_losses(corpora, after, before, seed=seed).values())
        for told in evaluation.losses:
            measured(told)
        for other in later:
            made_of, after = after, work.text_losses(f"model {other}", other, corpora)
            step = Evaluation(model=other, base=base)
            for loss in summarize_losses(corpora, after, before, seed=seed).values():
                own_part = mixed_difference(loss.losses, made_of[loss.name], loss.weights, seed=seed)
                step.losses.append(replace(loss, own_part=own_part))
            evaluation.also.append(step)
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


def _notes_on_dtypes(loading: Loading, loaded: Sequence[str]) -> list[str]:
    """Return a note on the types of the models if they are not in single precision, which is the usual."""
    if loading.load_in is not None:
        return [
            f"measured with linear layers in {loading.load_in}, which changes the losses; the checkpoint is not"
        ]
    names = [dtype_name(dtype_to_load(location, loading)) for location in loaded]
    several = list(dict.fromkeys(names))
    if several == ["float32"]:
        return []
    if len(several) == 1:
        return [f"measured in {names[0]}; losses are summed in double precision"]
    if len(names) > 2:
        return [f"the models are measured in {' and '.join(several)}, so a part of the steps is rounding"]
    of_each = f"the model is measured in {names[0]} and its base in {names[1]}"
    return [
        f"{of_each}, so a part of the change is rounding; pass --dtype float32 to measure both in one type"
    ]


@dataclass
class MeasuredModel:
    """A model, and those that it is compared with: one of them is in memory at a time, the one that is measured."""

    source: str
    base: str | None
    kept: Kept
    losses: LossSettings
    seed: int
    loading: Loading
    progress: Progress
    notes: list[str] = field(default_factory=list)
    _language: OpenedModel | None = None  # of those opened as language models, the last one
    _language_of: str | None = None  # what it was opened from

    def open(self, source: str, base: str | None) -> OpenedModel:
        """Open a language model in the place of the last one. An adapter is put on its base if that is in memory."""
        last = self._language
        if last is not None and self._language_of == source:
            return last
        self._language = None
        if last is not None and base is not None and base == self._language_of and can_go_on(source, base):
            opened = put_on(last, source, base)
        else:
            del last  # its memory is needed
            opened = open_language_model(source, base, self.loading)
        self._language, self._language_of = opened, source
        return opened

    def score(self, task: Task, split: str, most: int | None) -> TaskScore:
        """Return the score of a task's split. A causal model that is open is reused."""
        examples = task.split(split)[:most]
        unit = {
            "task": [task.kind, task.score, task.labels, task.max_new_tokens],
            "examples": [asdict(example) for example in examples],
        }

        def measured() -> tuple[dict[str, Any], Iterable[str]]:
            # The memory of an encoder is needed for the classifier, and that of the base for the model.
            if task.kind == "classification" or self._language_of != self.source:
                self._language = None
            opened = self._language
            if opened is None or opened.is_masked:
                opened = open_for_task(self.source, task, self.base, self.loading)
            if task.kind == "causal":
                self._language, self._language_of = opened, self.source
            self.progress(f"score {task.name}", 0, len(examples))
            grades = graded(opened, task, examples, batch_size=self.losses.windows or BATCH)
            notes = [*opened.notes, *self._note_on_longer_rows(opened, task, examples)]
            return {"right": grades.right, "unfinished": grades.unfinished}, notes

        record = self._once(unit, Any, measured)
        return score_of_answers(task, split, record["right"], record["unfinished"])

    def harness(self, settings: HarnessSettings, limit: int | None) -> list[HarnessScore]:
        own = digest_of_own_tasks(settings)
        unit = {"harness": list(settings.lm_eval), "own": own, "limit": limit, "seed": self.seed}

        def measured() -> tuple[list[HarnessScore], Iterable[str]]:
            self.progress("score by lm-evaluation-harness", 0, 1)
            opened = self.open(self.source, self.base)
            return harness_scores(opened, settings, limit=limit, seed=self.seed), opened.notes

        return list(self._once(unit, list[HarnessScore], measured))

    def text_losses(self, which: str, source: str, corpora: Corpora) -> dict[str, list[DocumentLosses]]:
        """Return the losses of the model, its base or another one; ``which`` says in the progress which it is."""
        base = None if which == "base" else self.base
        # A unit is found by its documents, whatever the corpus was called when it was kept.
        read = {name: getattr(self.losses, name) for name in ("window", "stride", "max_tokens", "estimate")}
        units = {
            name: {"losses": which, "documents": [part.digest for part in parts], **read, "seed": self.seed}
            for name, parts in corpora.items()
        }
        done, in_all = 0, 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.progress(f"loss of the {which} (tokens)", min(done, in_all), in_all)

        @cache
        def ready() -> OpenedModel:
            nonlocal in_all
            missing = [parts for name, parts in corpora.items() if self.kept.get(units[name]) is None]
            plan = memory_plan(GivenModel(source, base).location, self.loading)
            self.progress(f"open the {which}" + ("" if plan is None else f" ({plan.words()})"), 0, 1)
            model, most = self.open(source, base), self.losses.max_tokens
            if base is not None:
                of_base = load_tokenizer(GivenModel(base).location)
                require_read_alike(model.tokenizer, of_base, corpora, most, source, base)
            texts = [text for parts in missing for part in parts for text in part.documents]
            in_all = sum(len(ids_of(model.tokenizer, text, most)) for text in texts)
            advance(0)
            return model

        def measured(name: str) -> tuple[list[DocumentLosses], Iterable[str]]:
            model, parts = ready(), {name: corpora[name]}
            losses = losses_by_corpus(model, parts, self.losses, self.seed, advance)[name]
            return losses, () if which == "base" else model.notes

        return {
            name: self._once(unit, list[DocumentLosses], partial(measured, name))
            for name, unit in units.items()
        }

    def _once(
        self, unit: Mapping[str, Any], kind: Any, measure: Callable[[], tuple[Any, Iterable[str]]]
    ) -> Any:
        """Return a kept measurement, or make and keep it; what was noted when it was made is noted again."""
        kept = self.kept.get(unit)
        if kept is None:
            value, notes = measure()
            kept = plain({"value": value, "notes": list(notes)})
            self.kept.put(unit, kept)
        self.notes += [note for note in kept["notes"] if note not in self.notes]
        return from_plain(kind, kept["value"])

    def _note_on_longer_rows(
        self, opened: OpenedModel, task: Task, examples: Sequence[Example]
    ) -> Iterator[str]:
        """Yield that a classifier is scored on more of its rows than its training, which cut them, has read."""
        limit = FinetunedFolder.of(self.source).max_length if task.kind == "classification" else None
        if limit is None or limit >= opened.context:
            return
        rows = encode_classification(opened.tokenizer, examples, task.labels, opened.context)
        longer = sum(len(row["input_ids"]) > limit for row in rows)
        if longer:
            yield (
                f"{longer:,} of {plural(len(rows), 'row')} of task {task.name!r} have more than the {limit} tokens "
                f"that the training read of a row (max_length); up to {opened.context} of them are scored here, so the "
                "accuracy may differ from that of the run's own validation"
            )
