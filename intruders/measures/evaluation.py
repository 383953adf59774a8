"""The measures of one model as a result: their JSON, and the tables of single documents and examples."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SettingError
from ..system.documents import read_document
from ..system.files import read_bytes, user_path, write_together
from ..system.folders import require_ours
from ..system.plain_values import from_plain
from ..system.result_protocol import json_bytes, refuse_others
from ..system.store import EVALUATIONS
from ..system.versions import machine, versions
from .corpus_loss import CorpusLoss
from .harness import HarnessScore
from .intervals import Interval
from .losses import DocumentLosses
from .task_score import TaskScore

SCHEMA = 1
_FILES = ("evaluation.json", "documents.parquet", "examples.parquet")

Measured = CorpusLoss | TaskScore | HarnessScore | str  # a note is a string


@dataclass(frozen=True)
class Evaluation:
    """The measures of one model.

    Attributes:
      model: the model, as it was given.
      base: the base that losses are compared with, or None.
      losses: one entry per corpus.
      scores: one entry per task.
      harness: one entry per metric of lm-evaluation-harness.
      notes: facts about the measurement that a person should know.
      versions: versions of the packages.
      machine: the processor or GPU, and the threads, that measured.
      also: the models of a series after this one, each with its losses alone.

    Examples:
      ``intruders.evaluate("my-run", scores=intruders.ScoreSettings(tasks=("sst2",))).to_document()["tasks"]``
    """

    model: str
    base: str | None
    losses: list[CorpusLoss] = field(default_factory=list)
    scores: list[TaskScore] = field(default_factory=list)
    harness: list[HarnessScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a person should know of how they were made
    versions: Mapping[str, Any] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    also: "list[Evaluation]" = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON types, without the values of single documents and examples."""
        steps = [
            {"model": step.model, "losses": [_loss_record(loss) for loss in step.losses]}
            for step in self.also
        ]
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
                    **{name: getattr(score, name) for name in ("source", "max_new_tokens", "unfinished")},
                }
                for score in self.scores
            ],
            "harness": [asdict(score) for score in self.harness],
            "notes": self.notes,
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            **({"also": steps} if steps else {}),
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``evaluation.json`` and the values behind it: ``documents.parquet`` and ``examples.parquet``."""
        target = user_path(folder)
        target.mkdir(parents=True, exist_ok=True)
        documents = pd.DataFrame(
            [
                (loss.name, part, index, float(of_part.sums[index]), int(of_part.tokens[index]), step)
                for step, evaluation in enumerate([self, *self.also])
                for loss in evaluation.losses
                for part, of_part in enumerate(loss.losses)
                for index in range(len(of_part.sums))
            ],
            columns=["corpus", "part", "document", "loss_sum", "tokens", "step"],
        )
        documents = documents if self.also else documents.drop(columns="step")
        examples = pd.DataFrame(
            [
                (score.task, index, right, score.is_held_out)
                for score in self.scores
                for index, right in enumerate(score.right)
            ],
            columns=["task", "example", "right", "held_out"],
        )
        tables = zip(_FILES[1:], (documents, examples), strict=True)
        contents = {target / name: table.to_parquet(index=False) for name, table in tables}
        write_together(contents, target / _FILES[0], json_bytes(self.to_document(), indent=2))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Evaluation":
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
            steps = [rows for _, rows in documents.groupby("step")] if "step" in documents else [documents]
            first, *also = (
                cls(record["model"], document["base"], [_loss_from(loss, rows) for loss in record["losses"]])
                for record, rows in zip([document, *document.get("also", [])], steps, strict=True)
            )
            return replace(
                first,
                scores=_scores_from(document["tasks"], examples),
                harness=from_plain(list[HarnessScore], document["harness"]),
                notes=document["notes"],
                versions=document["versions"],
                machine=document["machine"],
                also=also,
            )


def check_evaluation_folder(folder: Path, force: bool) -> None:
    """Refuse a folder of other files, and one with an evaluation that is not to be replaced."""
    require_ours(folder, (*_FILES, EVALUATIONS), "an evaluation")
    if (folder / _FILES[0]).exists() and not force:
        raise SettingError(
            f"out {str(folder)!r} already has an evaluation; choose another folder, or pass --force to replace it"
        )


_COMPARED = ("base_loss", "difference", "own_part")  # of a loss, where there is a base, and a model before it


def _loss_record(loss: CorpusLoss) -> dict[str, Any]:
    intervals = {name: getattr(loss, name) for name in ("loss", *_COMPARED, "perplexity_ratio")}
    return {
        "corpus": loss.name,
        "measure": loss.losses[0].measure,
        "documents": sum(len(part.sums) for part in loss.losses),
        "tokens": sum(int(part.tokens.sum()) for part in loss.losses),
        "weights": loss.weights,
        "digests": list(loss.digests),
        **{name: interval.as_dict() for name, interval in intervals.items() if interval is not None},
    }


def _loss_from(record: Mapping[str, Any], documents: pd.DataFrame) -> CorpusLoss:
    """Read a corpus from its record, which has the measure, and the losses of its documents."""
    rows = documents[documents["corpus"] == record["corpus"]].sort_values(["part", "document"])
    return CorpusLoss(
        name=record["corpus"],
        loss=Interval.from_dict(record["loss"]),
        losses=[
            DocumentLosses(record["measure"], *(part[name].to_numpy() for name in ("loss_sum", "tokens")))
            for _, part in rows.groupby("part")
        ],
        weights=record["weights"],
        digests=tuple(record["digests"]),
        **{name: Interval.from_dict(record[name]) for name in _COMPARED if name in record},
    )


def _scores_from(records: Sequence[Mapping[str, Any]], examples: pd.DataFrame) -> list[TaskScore]:
    """Read the tasks, whose examples follow each other: data files of two folders may have one name."""
    if len(examples) != sum(record["examples"] for record in records):
        raise ValueError("the examples are not those of the tasks")
    scores, end = list[TaskScore](), 0
    for record in records:
        start, end = end, end + record["examples"]
        rows = examples.iloc[start:end]
        of_record = {name: record[name] for name in ("split", "source", "max_new_tokens", "unfinished")}
        right, held_out = rows["right"].tolist(), bool(rows["held_out"].any())
        scores.append(TaskScore(record["name"], right=right, is_held_out=held_out, **of_record))
    return scores
