"""Everything that is measured of one model: losses on text, compared with its base's, and task scores."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..checkpoints.pairing.sides_on_disk import on_disk
from ..data.corpora import Corpora, load_all
from ..data.halves import halves_of_corpus, halves_of_task
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import SettingError
from ..models.finetuned_folder import data_seed_of
from ..models.loading_settings import AS_STORED, Loading
from ..models.model_digest import digest_of_model
from ..models.stored_dtype import dtype_name, dtype_to_load, recorded_dtypes
from ..models.tuned_model import base_location, check_for_task, weights_of
from ..settings.seeds import check_seeds
from ..system.callers_process import apart_from_caller
from ..system.documents import read_document
from ..system.files import is_left_behind, read_bytes, user_path, write_together
from ..system.folders import LOCK, make_folder, working_folder
from ..system.plain_values import from_plain
from ..system.progress import Progress, silent
from ..system.result_protocol import json_bytes, refuse_others
from ..system.versions import machine, versions
from .corpus_loss import CorpusLoss, summarize_losses
from .harness import HarnessScore, check_harness
from .intervals import Interval
from .kept_outcomes import FOLDER, KeptOutcomes
from .losses import DocumentLosses
from .measure_settings import NO_HARNESS, NO_LOSSES, NO_SCORES, HarnessSettings, LossSettings, ScoreSettings
from .measured_model import MeasuredModel
from .task_score import TaskScore, scored_examples

SCHEMA = 1
_FILES = ("evaluation.json", "documents.parquet", "examples.parquet")

_ON_REPORTED_HALF = "only the documents and examples that heal, scale and remedies report on were measured"

Measured = CorpusLoss | TaskScore | HarnessScore | str  # a note is a string


@dataclass(frozen=True)
class Evaluation:
    """The measures of one model.

    Args:
      model: the model, as it was given.
      base: the base that losses are compared with, or None.
      losses: one entry per corpus.
      scores: one entry per task.
      harness: one entry per metric of lm-evaluation-harness.
      notes: facts about the measurement that a person should know.

    Example:
      ``intruders.evaluate("my-run", scores=intruders.ScoreSettings(tasks=("sst2",))).to_document()["tasks"]``
    """

    model: str
    base: str | None
    losses: list[CorpusLoss]
    scores: list[TaskScore]
    harness: list[HarnessScore]
    notes: list[str] = field(default_factory=list)  # what a person should know of how they were made

    versions: Mapping[str, Any] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON types, without the values of single documents and examples."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "base": self.base,
            "losses": [_loss_record(loss) for loss in self.losses],
            "tasks": [
                {
                    "name": score.task,
                    "split": score.split,
                    "examples": len(score.right),
                    "accuracy": score.accuracy.as_dict(),
                    "source": score.source,
                    "max_new_tokens": score.max_new_tokens,
                    "unfinished": score.unfinished,
                }
                for score in self.scores
            ],
            "harness": [asdict(score) for score in self.harness],
            "notes": self.notes,
            "versions": dict(self.versions),
            "machine": dict(self.machine),
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``evaluation.json`` and the values behind it: ``documents.parquet`` and ``examples.parquet``."""
        target = user_path(folder)
        target.mkdir(parents=True, exist_ok=True)
        documents = pd.DataFrame(
            [
                (loss.name, part, index, float(losses.sums[index]), int(losses.tokens[index]))
                for loss in self.losses
                for part, losses in enumerate(loss.losses)
                for index in range(len(losses.sums))
            ],
            columns=["corpus", "part", "document", "loss_sum", "tokens"],
        )
        examples = pd.DataFrame(
            [
                (score.task, index, right, score.is_held_out)
                for score in self.scores
                for index, right in enumerate(score.right)
            ],
            columns=["task", "example", "right", "held_out"],
        )
        tables = {
            target / "documents.parquet": documents.to_parquet(index=False),
            target / "examples.parquet": examples.to_parquet(index=False),
        }
        write_together(tables, target / _FILES[0], json_bytes(self.to_document(), indent=2))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read the folder that ``save`` or ``intruders evaluate --out`` wrote.

        Raises:
          ResultFileError: a file of it cannot be read, is of something else, or is of a newer version.
        """
        folder = user_path(path)
        document = read_document(folder / _FILES[0], "an evaluation", SCHEMA)
        with refuse_others(folder, "the folder of an evaluation", "intruders evaluate --out"):
            documents, examples = (
                pd.read_parquet(io.BytesIO(read_bytes(folder / name))) for name in _FILES[1:]
            )
            if document is None:
                raise KeyError(_FILES[0])
            return cls(
                document["model"],
                document["base"],
                [_loss_from(record, documents) for record in document["losses"]],
                _scores_from(document["tasks"], examples),
                from_plain(list[HarnessScore], document["harness"]),
                document["notes"],
                document["versions"],
                document["machine"],
            )


@apart_from_caller()
def evaluate(
    model: str,
    *,
    base: str | None = None,
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

    Example:
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
        _check_folder(folder, force)
    # Everything that can be wrong is found out before the first model is loaded.
    given = _checked(
        model,
        base,
        losses,
        scores,
        harness,
        data_seed=data_seed_of(model) if data_seed is None else data_seed,
        seed=seed,
        reported_half=reported_half,
        loading=loading,
        is_kept=folder is not None,
    )
    with working_folder(folder):
        work = MeasuredModel(model, base, KeptOutcomes(folder, given.of), losses, seed, loading, progress)
        work.notes += given.notes
        evaluation = Evaluation(model, base, [], [], [], work.notes)
        after, before = work.losses_of_both(given.corpora)
        for name, parts in given.corpora.items():
            told = summarize_losses(
                name, parts, after[name], None if before is None else before[name], seed=seed
            )
            evaluation.losses.append(told)
            measured(told)
        for task, split in zip(given.tasks, given.splits, strict=True):
            score = work.score(task, split, scores.max_examples)
            evaluation.scores.append(score)
            measured(score)
        if harness.lm_eval:
            for told_by_harness in work.harness(harness, scores.max_examples):
                evaluation.harness.append(told_by_harness)
                measured(told_by_harness)
        for note in work.notes:
            measured(note)
        if folder is not None:
            evaluation.save(folder)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return evaluation


@dataclass(frozen=True)
class _Checked:
    """Data and models of an evaluation, found usable before a model is loaded."""

    corpora: Corpora
    tasks: list[Task]
    splits: list[str]  # the one of each task that is scored
    of: dict[str, list[str]]  # what a kept measurement depends on; empty if none is kept
    notes: list[str]


def _checked(
    model: str,
    base: str | None,
    losses: LossSettings,
    scores: ScoreSettings,
    harness: HarnessSettings,
    *,
    data_seed: int,
    seed: int,
    reported_half: bool,
    loading: Loading,
    is_kept: bool,
) -> _Checked:
    """Load the data, with ``reported_half`` that half of it alone, and look at the files of the models.

    Raises:
      SettingError: a setting, corpus or task cannot be used.
      CheckpointError: the model or the base cannot be used.
    """
    corpora = load_all(losses.loss_on, max_documents=losses.max_documents, seed=seed)
    tasks = [load_task(task, scores, data_seed) for task in scores.tasks]
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
    of: dict[str, list[str]] = {}
    if is_kept:
        of = {"weights": [digest_of_model(source) for source in sources], **recorded_dtypes(loading, loaded)}
    notes = _notes_on_dtypes(loading, loaded)
    return _Checked(corpora, tasks, splits, of, [*notes, _ON_REPORTED_HALF] if reported_half else notes)


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


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse a folder of other files, and one with an evaluation that is not to be replaced."""
    try:
        there = {file.name for file in folder.iterdir() if not is_left_behind(file.name)}
    except FileNotFoundError:
        return
    except OSError:  # what it is instead is told when it is made
        make_folder(folder)
        return
    if there - {*_FILES, FOLDER, LOCK}:
        raise SettingError(f"out {str(folder)!r} is not empty and not an evaluation; choose another folder")
    if _FILES[0] in there and not force:
        raise SettingError(
            f"out {str(folder)!r} already has an evaluation; choose another folder, or pass --force to replace it"
        )


def _loss_record(loss: CorpusLoss) -> dict[str, Any]:
    record: dict[str, Any] = {
        "corpus": loss.name,
        "measure": loss.losses[0].measure,
        "documents": sum(len(part.sums) for part in loss.losses),
        "tokens": sum(int(part.tokens.sum()) for part in loss.losses),
        "weights": loss.weights,
        "digests": list(loss.digests),
        "loss": loss.loss.as_dict(),
    }
    for name in ("base_loss", "difference", "perplexity_ratio"):
        interval: Interval | None = getattr(loss, name)
        if interval is not None:
            record[name] = interval.as_dict()
    return record


def _loss_from(record: Mapping[str, Any], documents: pd.DataFrame) -> CorpusLoss:
    """Read a corpus from its record and the losses of its documents."""
    rows = documents[documents["corpus"] == record["corpus"]].sort_values(["part", "document"])
    parts = [
        DocumentLosses(record["measure"], part["loss_sum"].to_numpy(), part["tokens"].to_numpy())
        for _, part in rows.groupby("part")
    ]
    base, difference = (
        Interval.from_dict(record[name]) if name in record else None for name in ("base_loss", "difference")
    )
    loss = Interval.from_dict(record["loss"])
    return CorpusLoss(
        record["corpus"], loss, parts, record["weights"], base, difference, tuple(record["digests"])
    )


def _scores_from(records: Sequence[Mapping[str, Any]], examples: pd.DataFrame) -> list[TaskScore]:
    """Read the tasks, whose examples follow each other: data files of two folders may have one name."""
    ends = np.cumsum([record["examples"] for record in records])
    if len(examples) != sum(record["examples"] for record in records):
        raise ValueError("the examples are not those of the tasks")
    return [
        _score_from(record, examples.iloc[end - record["examples"] : end])
        for record, end in zip(records, ends, strict=True)
    ]


def _score_from(record: Mapping[str, Any], rows: pd.DataFrame) -> TaskScore:
    """Read a task from its record and the outcomes of its examples."""
    return TaskScore(
        record["name"],
        record["split"],
        rows["right"].tolist(),
        is_held_out="held_out" in rows and bool(rows["held_out"].any()),
        source=record["source"],
        max_new_tokens=record["max_new_tokens"],
        unfinished=record["unfinished"],
    )
