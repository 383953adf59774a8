"""Several tasks one after another: what is forgotten, and how intruders add up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from ..audits.audit import audit_sides
from ..audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import SettingError
from ..measures.task_score import score_task, scored_examples
from ..models.base_model import base_model_location
from ..models.encoding import context_length, encode_completions, fitting, longest_read
from ..models.loading import heads, load_model, load_tokenizer
from ..models.loading_settings import IN_SINGLE
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel, base_location
from ..system.callers_process import apart_from_caller
from ..system.documents import read_document
from ..system.files import write_atomically
from ..system.folders import follow_umask, locked_folder, make_folder, other_entries, scratch_folder
from ..system.result_protocol import JsonResult
from ..training.finetune import check_task, finetune
from ..training.finetune_config import FinetuneConfig
from ..training.prepared_run import encoded_rows
from ..training.retrain_head import retrain_head
from ..training.run_folder import RunFolder

SCHEMA = 1
_HEAD = "head.safetensors"


@dataclass(frozen=True)
class SequenceResult(JsonResult):
    """Accuracies after each stage, and the intruders against the first base."""

    schema = SCHEMA
    what = "the result of a sequence"
    written_by = "intruders sequence"
    file_name = "sequence.json"
    indent = 2

    tasks: list[str]
    accuracies: list[list[float]]  # [stage][task], for the tasks seen so far
    intruders: list[int]  # per stage, against the first base
    vectors: list[int]
    steps: list[int] = field(default_factory=list)  # per stage, that it was trained
    # Per stage, whether it reached the score of `match`; None without one.
    reached: list[bool | None] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)  # per task, of public sets
    # Per stage and earlier task, for how many steps its head was trained again; empty where heads are kept.
    head_steps: list[list[int]] = field(default_factory=list)

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
        """The best accuracy of each earlier task before the last stage minus its last accuracy (Chaudhry 2018)."""
        stages, last = self.accuracies[:-1], self.accuracies[-1]
        return [max(row[task] for row in stages[task:]) - last[task] for task in range(len(stages))]

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values."""
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
            "head_steps": self.head_steps,
        }


@apart_from_caller()
def train_in_sequence(
    config: FinetuneConfig,
    tasks: Sequence[str],
    *,
    adapters: str = "merge",
    retrain_heads: bool = False,
    audit: AuditSettings = AS_USUAL,
    callbacks: Callable[[], list[Any]] = list,
) -> SequenceResult:
    """Fine-tune on each task in turn from the model so far; score all tasks so far and audit after each.

    With ``config.match`` every stage stops at that score of its own task. A stage that does not reach it is trained
    for ``config.steps``, and the result records that. A task's head is trained in its own stage only and kept as it
    was then, unless ``retrain_heads``. An interrupted sequence resumes.

    Args:
      config: what every stage shares; its ``task`` is not used. The folder ``config.out`` gets a run folder per stage.
      tasks: the tasks, in the order of training.
      adapters: "merge" puts each stage's adapter into the weights before the next; "keep" continues to train it.
      retrain_heads: before an earlier task is tested, train its classification head again on the frozen body, as the
        paper does (Shuttleworth et al. 2024, section 6). The head starts from where its own stage left it and takes as
        many steps as that stage, at the same learning rate and schedule. The bodies are the same either way.
      audit: settings of the audits.
      callbacks: called before every stage; returns its transformers TrainerCallbacks.

    Returns:
      Accuracies after each stage, and the intruders against the first base.

    Raises:
      SettingError: no tasks, a stage that cannot be trained or scored, or a folder with another sequence. Settings
        and data of all stages are checked before the first step.
      IntrudersError: as :func:`intruders.finetune` raises it.

    Example:
      With a base in the folder ``base``, two parts of the topics of Python's documentation one after the other:

      >>> few = {"rank": 2, "steps": 2, "max_train_samples": 8, "max_eval_samples": 2}
      >>> config = FinetuneConfig(base="base", task="pydoc-topics-1", out="sequence", **few)
      >>> result = train_in_sequence(config, ["pydoc-topics-1", "pydoc-topics-2"])
      >>> result.tasks
      ['pydoc-topics-1', 'pydoc-topics-2']
    """
    if not tasks:
        raise SettingError("a sequence without tasks; expected at least one")
    if adapters not in ("merge", "keep"):
        raise SettingError(f"adapters is {adapters!r}; expected merge or keep")
    if config.method == "full":
        adapters = "merge"  # nothing to keep apart: each stage starts from the weights of the one before
    if adapters == "keep" and config.starts_from_changed_base and len(tasks) > 1:
        raise SettingError(
            f"adapters is 'keep', but method {config.method!r} starts from a changed base and cannot go on from an "
            "adapter; pass merge, or another method"
        )
    out = Path(config.out)
    stages = [out / f"stage-{number}" for number in range(1, len(tasks) + 1)]
    befores = [None, *stages[:-1]]
    configs = [
        _stage_config(config, task, stage, before, adapters)
        for task, stage, before in zip(tasks, stages, befores, strict=True)
    ]
    loaded = [load_task(name, config, config.data_seed) for name in tasks]
    _check_tasks(config, loaded)
    if retrain_heads and all(task.kind != "classification" for task in loaded):
        raise SettingError(
            "retrain_heads is true, and none of the tasks is classification, whose heads could be trained again; "
            "leave it out"
        )
    _open_folder(out, tasks)
    with locked_folder(out):
        return _trained(config, configs, loaded, retrain_heads, audit, callbacks)


def has_finished(config: FinetuneConfig, tasks: Sequence[str], retrain_heads: bool = False) -> bool:
    """Return whether the folder contains the result of this sequence of tasks, with its heads treated so."""
    record = _record(Path(config.out))
    return (
        record is not None
        and record.get("tasks") == list(tasks)
        and bool(record.get("head_steps")) == retrain_heads
    )


def _check_tasks(config: FinetuneConfig, tasks: Sequence[Task]) -> None:
    """Raise SettingError for what any stage could not be trained on or scored by, before the first step."""
    for task in tasks:
        check_task(config, task)
        scored_examples(task, None, config.max_eval_samples)
    causal = [task for task in tasks if task.kind == "causal"]
    if not causal:
        return
    from transformers import AutoConfig

    location = base_model_location(config.base)
    with quiet_transformers():
        tokenizer = load_tokenizer(location)
        model = AutoConfig.from_pretrained(location)
        context, whole = context_length(model, config.max_length), longest_read(model)
        for task in causal:
            encoded_rows(
                config, tokenizer, task.limited(config.max_train_samples, config.max_eval_samples), context
            )
            _scored(config, tokenizer, task, whole)


def _scored(config: FinetuneConfig, tokenizer: Any, task: Task, context: int) -> Task:
    """Return the task with the rows scored after a stage. SettingError if one does not fit in the context."""
    split, examples = scored_examples(task, None, config.max_eval_samples)
    if task.kind != "causal":
        return task
    where = f"{split} split of task {task.name!r}"
    if config.drop_too_long:
        examples = fitting(tokenizer, examples, context, where)
    else:
        encode_completions(tokenizer, examples, context, where=where)
    return replace(task, test=examples) if split == "test" else replace(task, validation=examples)


def _open_folder(out: Path, tasks: Sequence[str]) -> None:
    """Make the folder, or accept it if it contains this sequence, its beginning, or nothing.

    Raises:
      SettingError: it contains another sequence, whose results would be replaced, or something else.
    """
    make_folder(out)
    record = _record(out)
    known = [] if record is None else list(record.get("tasks", []))
    further = [out / f"stage-{len(tasks) + 1}"]
    if known != list(tasks[: len(known)]) or any(stage.exists() for stage in further):
        of = f" ({', '.join(known)})" if known else ""
        raise SettingError(
            f"out '{out}' contains a sequence of other tasks{of}; choose another folder, or remove that one"
        )
    is_new = record is None and not (out / "stage-1").exists()
    if is_new and other_entries(out):
        raise SettingError(f"out '{out}' is not empty and not a sequence; choose another folder")


def _record(out: Path) -> dict[str, Any] | None:
    return read_document(out / "sequence.json", "the result of a sequence", SCHEMA)


def _trained(
    config: FinetuneConfig,
    configs: Sequence[FinetuneConfig],
    loaded: Sequence[Task],
    retrain_heads: bool,
    audit: AuditSettings,
    callbacks: Callable[[], list[Any]],
) -> SequenceResult:
    out = Path(config.out)
    stages = [Path(stage.out) for stage in configs]
    compute = Compute(cache=MemoryCache())  # every stage is audited against the same base
    audited = audit.recorded()
    accuracies: list[list[float]] = []
    counts: list[tuple[int, int]] = []
    steps: list[int] = []
    reached: list[bool | None] = []
    head_steps: list[list[int]] = []
    kinds = [task.kind for task in loaded]
    for number, stage in enumerate(stages):
        run = finetune(configs[number], callbacks())
        if "causal" in kinds[number + 1 : number + 2]:
            _remove_without_output_head(run, loaded[number])
        # Stages of classes leave the output head as the last stage of completions has it, or the first base.
        writers = [stages[seen] / "backbone" for seen in range(number) if kinds[seen] == "causal"]
        _keep_backbone(
            run,
            configs[number].base,
            loaded[number],
            head_of=str([config.base, *writers][-1]) if "causal" in kinds else None,
        )
        steps.append(run.record["steps"])
        reached.append(None if config.match is None else run.record["stopped_by"] == "match")
        result = stage / "stage.json"
        again = [_head_steps(loaded[seen], steps[seen]) for seen in range(number)] if retrain_heads else []
        settings = {"audit": audited} | ({"head_steps": again} if retrain_heads else {})
        record = read_document(result, "the result of a stage of a sequence", SCHEMA)
        if record is None or not _is_of(record, settings):
            row = [
                _accuracy(config, stage, stages[seen], loaded[seen], again[seen] if seen < len(again) else 0)
                for seen in range(number + 1)
            ]
            done = audit_sides(base_model_location(config.base), stage / "backbone", audit, compute)
            record = {
                "accuracies": row,
                "intruders": done.intruders,
                "vectors": done.vectors,
                **settings,
            }
            write_atomically(result, (json.dumps(record) + "\n").encode())
        accuracies.append(record["accuracies"])
        counts.append((record["intruders"], record["vectors"]))
        head_steps += [again] if retrain_heads else []
    finished = SequenceResult(
        [stage.task for stage in configs],
        accuracies,
        [intruders for intruders, _ in counts],
        [vectors for _, vectors in counts],
        steps,
        reached,
        [task.source for task in loaded],
        head_steps,
    )
    finished.save(out / "sequence.json")
    return finished


def _is_of(record: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Return whether a stage's result is of these settings; heads that were kept are in no record."""
    return {name: record[name] for name in ("audit", "head_steps") if name in record} == settings


def _head_steps(task: Task, steps: int) -> int:
    """Return for how many steps a task's head is trained again; a causal task has none."""
    return steps if task.kind == "classification" else 0


def _stage_config(
    config: FinetuneConfig, task: str, stage: Path, before: Path | None, adapters: str
) -> FinetuneConfig:
    if before is None:
        return replace(config, task=task, out=str(stage))
    if adapters == "keep":
        return replace(config, task=task, out=str(stage), start_from=str(before))
    return replace(config, task=task, out=str(stage), base=str(before / "backbone"))


def _remove_without_output_head(run: RunFolder, task: Task) -> None:
    """Remove the backbone of a classifier if completions cannot be trained on it; it is then written with a head.

    It was written in a sequence of classes alone, to which a task of completions has been added since.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    backbone = run.path / "backbone"
    if task.kind != "classification" or not backbone.is_dir():
        return
    config = AutoConfig.from_pretrained(backbone)
    has_head = not {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}.isdisjoint(config.architectures or ())
    if not (has_head or config.get_text_config().tie_word_embeddings):
        shutil.rmtree(backbone)


def _keep_backbone(run: RunFolder, base: str, task: Task, *, head_of: str | None) -> None:
    """Write the stage's model without its head, with adapters merged, and the head in a separate file.

    The base is the one of the settings: in a folder that was moved, records and adapters name where it was.
    A classifier gets the output head of the model ``head_of``, for tasks of completions before or after this one.
    """
    backbone = run.path / "backbone"
    if (run.path / _HEAD).is_file() and backbone.is_dir():
        return
    with quiet_transformers():
        source = str(run.path)
        location = base_location(source, base)
        labels = task.labels if task.kind == "classification" else None
        # In float32 also on a base of 16 bits, which would round a part of the update away.
        model: Any = load_model(location, task.kind, labels, IN_SINGLE)
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
        if labels and head_of is not None:
            body = model.base_model.state_dict()
            model = load_model(base_model_location(head_of), "causal", loading=IN_SINGLE)
            model.base_model.load_state_dict(body)
        elif labels:
            model = model.base_model
        model.save_pretrained(unfinished)
        load_tokenizer(location).save_pretrained(unfinished)
    follow_umask(unfinished)
    shutil.rmtree(backbone, ignore_errors=True)
    unfinished.rename(backbone)
    write_atomically(run.path / _HEAD, save(tensors))


def _accuracy(config: FinetuneConfig, stage: Path, trained_in: Path, task: Task, head_steps: int) -> float:
    """Measure accuracy on ``task`` of the backbone after ``stage``, under the head of the task's own stage.

    With ``head_steps`` that head is trained again for so many, on the backbone as it is.
    """
    location = str(stage / "backbone")
    with quiet_transformers():
        labels = task.labels if task.kind == "classification" else None
        model: Any = load_model(location, task.kind, labels, IN_SINGLE)
        head, tokenizer = load_file(trained_in / _HEAD), load_tokenizer(location)
        model.load_state_dict(head, strict=False)
        if head_steps:
            limited = task.limited(config.max_train_samples, config.max_eval_samples)
            with scratch_folder(Path(config.out)) as scratch:
                retrain_head(model, head, tokenizer, limited, config, head_steps, scratch)
        context = context_length(model.config, None) if labels else longest_read(model.config)
        opened = OpenedModel(model, tokenizer, context)
        task = _scored(config, opened.tokenizer, task, opened.context)
        return score_task(opened, task, max_examples=config.max_eval_samples).accuracy.estimate
