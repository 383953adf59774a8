"""Several tasks one after another: what is forgotten, and how intruders add up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ..audits.audit import audit_sides
from ..audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import SettingError
from ..models.base_model import base_model_location
from ..models.encoding import context_length
from ..models.loading import heads, load_model, load_tokenizer
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel, base_location
from ..system.files import write_atomically
from ..training.finetune import finetune
from ..training.finetune_config import FinetuneConfig
from ..training.run_folder import RunFolder
from .task_score import score_task

SCHEMA = 1
_HEAD = "head.safetensors"


@dataclass(frozen=True)
class SequenceResult:
    """Accuracies after each stage, and the intruders against the first base."""

    tasks: list[str]
    accuracies: list[list[float]]  # [stage][task], for the tasks seen so far
    intruders: list[int]  # per stage, against the first base
    vectors: list[int]
    steps: list[int] = field(default_factory=list)  # per stage, that it was trained
    reached: list[bool | None] = field(
        default_factory=list
    )  # per stage: the score of `match`; None without one
    sources: list[str | None] = field(default_factory=list)  # per task, of public sets

    @property
    def average_accuracy(self) -> float:
        """Mean over all tasks of the accuracy after the last stage."""
        return sum(self.accuracies[-1]) / len(self.accuracies[-1])

    @property
    def backward_transfer(self) -> float | None:
        """Mean over earlier tasks of accuracy at the end minus that in their own stage (Lopez-Paz 2017)."""
        last, earlier = self.accuracies[-1], len(self.accuracies) - 1
        if earlier < 1:
            return None
        return sum(last[task] - self.accuracies[task][task] for task in range(earlier)) / earlier

    @property
    def forgetting(self) -> list[float]:
        """Of each earlier task: its best accuracy before the last stage minus the last (Chaudhry 2018)."""
        stages, last = self.accuracies[:-1], self.accuracies[-1]
        return [max(row[task] for row in stages[task:]) - last[task] for task in range(len(stages))]

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "tasks": self.tasks,
            "accuracies": self.accuracies,
            "average_accuracy": self.average_accuracy,
            "backward_transfer": self.backward_transfer,
            "forgetting": self.forgetting,
            "intruders": self.intruders,
            "vectors": self.vectors,
            "steps": self.steps,
            "reached": self.reached,
            "sources": self.sources,
        }

    def lines(self) -> list[str]:
        """The accuracy matrix and what follows from it, as text."""
        names = [f"task {number}" for number in range(1, len(self.tasks) + 1)]
        found = [f"{name}: {task}" for name, task in zip(names, self.tasks, strict=True)]
        found.append("after      " + "".join(f"{name:>9}" for name in names) + "   intruders")
        for stage, row in enumerate(self.accuracies):
            cells = "".join(f"{value:9.3f}" for value in row).ljust(9 * len(names))
            line = f"{names[stage]:<11}{cells}   {self.intruders[stage]} of {self.vectors[stage]}"
            if stage < len(self.reached) and self.reached[stage] is False:
                line += f"   did not reach the score in {self.steps[stage]} steps"
            found.append(line)
        transfer = self.backward_transfer
        found.append(
            f"average accuracy {self.average_accuracy:.3f}"
            + ("" if transfer is None else f", backward transfer {transfer:+.3f}")
        )
        return found


def train_in_sequence(
    config: FinetuneConfig,
    tasks: Sequence[str],
    *,
    adapters: str = "merge",
    audit: AuditSettings = AS_USUAL,
    callbacks: Callable[[], list[Any]] = list,
) -> SequenceResult:
    """Fine-tune on each task in turn from the model so far; score all tasks so far and audit after each.

    ``config`` has what every stage shares; its ``task`` is not used. ``adapters``: "merge" puts each
    stage's adapter into the weights before the next, "keep" continues to train the one adapter. ``audit`` has
    the settings of the audits. With ``config.match`` every stage stops at that score of its own task; one that
    does not reach it is trained for ``config.steps``, and the result says so. A task's head is trained in its own
    stage only and kept as it was then. The folder ``config.out`` has a run folder per stage; an interrupted
    sequence resumes. Raises IntrudersError as fine-tuning does.
    """
    if not tasks:
        raise SettingError("a sequence without tasks; expected at least one")
    if adapters not in ("merge", "keep"):
        raise SettingError(f"adapters is {adapters!r}; expected merge or keep")
    if config.method == "full":
        adapters = "merge"  # nothing to keep apart: each stage starts from the weights of the one before
    loaded = [load_task(name, config, config.data_seed) for name in tasks]
    out = Path(config.out)
    stages = [out / f"stage-{number}" for number in range(1, len(tasks) + 1)]
    compute = Compute(cache=MemoryCache())  # every stage is audited against the same base
    audited = audit.recorded()
    accuracies: list[list[float]] = []
    found: list[tuple[int, int]] = []
    steps: list[int] = []
    reached: list[bool | None] = []
    for number, stage in enumerate(stages):
        before = stages[number - 1] if number else None
        run = finetune(_stage_config(config, tasks[number], stage, before, adapters), callbacks())
        _keep_backbone(run, loaded[number])
        steps.append(run.record["steps"])
        reached.append(None if config.match is None else run.record["stopped_by"] == "match")
        result = stage / "stage.json"
        if not (result.is_file() and json.loads(result.read_text(encoding="utf-8")).get("audit") == audited):
            row = [
                _accuracy(stage, stages[seen], loaded[seen], config.max_eval_samples)
                for seen in range(number + 1)
            ]
            done = audit_sides(base_model_location(config.base), stage / "backbone", audit, compute)
            record = {
                "accuracies": row,
                "intruders": done.intruders,
                "vectors": done.vectors,
                "audit": audited,
            }
            write_atomically(result, (json.dumps(record) + "\n").encode())
        record = json.loads(result.read_text(encoding="utf-8"))
        accuracies.append(record["accuracies"])
        found.append((record["intruders"], record["vectors"]))
    finished = SequenceResult(
        list(tasks),
        accuracies,
        [intruders for intruders, _ in found],
        [vectors for _, vectors in found],
        steps,
        reached,
        [task.source for task in loaded],
    )
    write_atomically(out / "sequence.json", (json.dumps(finished.as_dict(), indent=2) + "\n").encode())
    return finished


def _stage_config(
    config: FinetuneConfig, task: str, stage: Path, before: Path | None, adapters: str
) -> FinetuneConfig:
    if before is None:
        return replace(config, task=task, out=str(stage))
    if adapters == "keep":
        return replace(config, task=task, out=str(stage), start_from=str(before))
    return replace(config, task=task, out=str(stage), base=str(before / "backbone"))


def _keep_backbone(run: RunFolder, task: Task) -> None:
    """Write the stage's model without its head, adapters merged in, and the head beside it."""
    backbone = run.path / "backbone"
    if (run.path / _HEAD).is_file() and backbone.is_dir():
        return
    with quiet_transformers():
        source = str(run.path)
        location = base_location(source, None)
        labels = task.labels if task.kind == "classification" else None
        model: Any = load_model(location, task.kind, labels)
        if location != str(run.path.resolve()):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source).merge_and_unload()
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, head in (heads(model) if labels else {}).items()
            for key, value in head.state_dict().items()
        }
        unfinished = run.path / ".backbone"
        shutil.rmtree(unfinished, ignore_errors=True)
        (model.base_model if labels else model).save_pretrained(unfinished)
        load_tokenizer(location).save_pretrained(unfinished)
    shutil.rmtree(backbone, ignore_errors=True)
    unfinished.rename(backbone)
    save_file(tensors, run.path / _HEAD)


def _accuracy(stage: Path, trained_in: Path, task: Task, most: int | None) -> float:
    """Accuracy on ``task`` of the backbone after ``stage``, under the head that the task had in its own."""
    location = str(stage / "backbone")
    with quiet_transformers():
        model: Any = load_model(location, task.kind, task.labels if task.kind == "classification" else None)
        model.load_state_dict(load_file(trained_in / _HEAD), strict=False)
        opened = OpenedModel(model, load_tokenizer(location), context_length(model.config, None))
        return score_task(opened, task, max_examples=most).accuracy.estimate
