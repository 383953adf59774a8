"""Everything that is measured of one model: losses on text, with its base's beside them, and task scores."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.corpora import load_corpora
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import SettingError
from ..models.finetuned_folder import data_seed_of
from ..models.tuned_model import open_for_task, open_language_model
from ..system.files import write_atomically
from ..system.folders import make_folder
from ..system.versions import machine, versions
from .corpus_loss import CorpusLoss, losses_by_corpus, summarize_losses
from .harness import HarnessScore, harness_scores
from .measure_settings import (
    NO_HARNESS,
    NO_LOSSES,
    NO_SCORES,
    HarnessSettings,
    LossSettings,
    ScoreSettings,
)
from .task_score import TaskScore, score_task

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """The measures of one model."""

    model: str
    base: str | None
    losses: list[CorpusLoss]
    scores: list[TaskScore]
    harness: list[HarnessScore]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the values of single documents and examples."""
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
                }
                for score in self.scores
            ],
            "harness": [asdict(score) for score in self.harness],
            "versions": versions(),
            "machine": machine(),
        }

    def lines(self) -> list[str]:
        """What a person reads: one line a measure, with 95 % intervals."""
        found = []
        for loss in self.losses:
            tokens = sum(int(part.tokens.sum()) for part in loss.losses)
            what = f"{loss.losses[0].measure} on {loss.name} ({tokens:,} tokens)"
            found.append(f"{what}: {loss.loss.estimate:.4f} [{loss.loss.low:.4f}, {loss.loss.high:.4f}]")
            if loss.base_loss is not None and loss.difference is not None:
                change = loss.difference
                found.append(
                    f"  base {loss.base_loss.estimate:.4f}, change {change.estimate:+.4f} "
                    f"[{change.low:+.4f}, {change.high:+.4f}]"
                )
        for score in self.scores:
            accuracy = score.accuracy
            part = "the tenth held out of the file" if score.is_held_out else score.split
            found.append(
                f"accuracy on {score.task}, {part} ({len(score.right)} examples): "
                f"{accuracy.estimate:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}]"
            )
        for line in self.harness:
            error = "" if line.standard_error is None else f" (standard error {line.standard_error:.4f})"
            found.append(f"{line.metric} on {line.task} (lm-evaluation-harness): {line.value:.4f}{error}")
        return found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """``evaluation.json``, and the values behind it: ``documents.parquet`` and ``examples.parquet``."""
        target = Path(folder)
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
            [(score.task, index, right) for score in self.scores for index, right in enumerate(score.right)],
            columns=["task", "example", "right"],
        )
        write_atomically(target / "documents.parquet", documents.to_parquet(index=False))
        write_atomically(target / "examples.parquet", examples.to_parquet(index=False))
        write_atomically(target / "evaluation.json", (json.dumps(self.as_dict(), indent=2) + "\n").encode())


def evaluate(
    model: str,
    *,
    base: str | None = None,
    losses: LossSettings = NO_LOSSES,
    scores: ScoreSettings = NO_SCORES,
    harness: HarnessSettings = NO_HARNESS,
    data_seed: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Measure the loss and the accuracy of a model folder, run folder, adapter, Hub id or demo model.

    ``losses.loss_on`` names corpora as ``intruders evaluate --loss-on`` does; with ``base`` its
    loss is measured on the same tokens, and the difference gets a paired bootstrap interval over documents.
    ``scores.tasks`` are scored by accuracy, ``harness`` names tasks of lm-evaluation-harness. ``data_seed`` is that
    of the tasks' rows and splits as in fine-tuning, that of the run if none is given. With ``out`` the result is
    saved there. Raises IntrudersError for a model, corpus or task that cannot be used.
    """
    if not (losses.loss_on or scores.tasks or harness.lm_eval):
        raise SettingError(
            "nothing to measure; expected a corpus (--loss-on) or a task (--task or --lm-eval)"
        )
    if out is not None:
        make_folder(Path(out))
    # Everything that can be wrong with the data is found out before the first model is loaded.
    corpora = {
        name: load_corpora(name, max_documents=losses.max_documents, seed=seed) for name in losses.loss_on
    }
    rows_by = data_seed_of(model) if data_seed is None else data_seed
    loaded = [load_task(task, scores, rows_by) for task in scores.tasks]
    measured: dict[str, dict[str, Any]] = {}
    for source in [model] if base is None else [base, model]:
        if corpora:
            opened = open_language_model(source, base if source == model else None)
            measured[source] = losses_by_corpus(opened, corpora, losses, seed)
    found_losses = [
        summarize_losses(
            name,
            parts,
            measured[model][name],
            None if base is None else measured[base][name],
            seed=seed,
        )
        for name, parts in corpora.items()
    ]
    found_scores = [_score(model, task, base, scores.split, scores.max_examples) for task in loaded]
    of_harness = []
    if harness.lm_eval:
        opened = open_language_model(model, base)
        of_harness = harness_scores(opened, harness, limit=scores.max_examples, seed=seed)
    found = Evaluation(model, base, found_losses, found_scores, of_harness)
    if out is not None:
        found.save(out)
    return found


def _score(model: str, task: Task, base: str | None, split: str | None, most: int | None) -> TaskScore:
    opened, labels = open_for_task(model, task, base)
    return score_task(opened, task, split=split, max_examples=most, labels=labels)


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
    if loss.base_loss is not None and loss.difference is not None:
        record |= {"base_loss": loss.base_loss.as_dict(), "difference": loss.difference.as_dict()}
    return record
