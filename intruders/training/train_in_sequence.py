"""Several tasks one after another: what is forgotten, and how intruders add up.

Of every stage a body without its head is kept, and the head in a file of its own, which may be trained again.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ..audits.audit import audit as find_intruders
from ..audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..data.load_task import load_task
from ..data.task import Task
from ..errors import NonFiniteError, SettingError
from ..measures.task_score import readable, scored_examples
from ..models.answers import graded
from ..models.base_model import base_model_location
from ..models.encoding import PadRight, context_length, encode_classification, longest_read, pad_token_id
from ..models.given_model import GivenModel
from ..models.loading import heads, load_model, load_tokenizer
from ..models.loading_settings import IN_SINGLE
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel
from ..system.callers_process import apart_from_caller
from ..system.documents import read_document
from ..system.files import write_atomically
from ..system.folders import atomic_folder, follow_umask, require_ours, scratch_folder, working_folder
from .arguments import steps_of_warmup, training_arguments
from .finetune import check_task, train_unless_finished
from .finetune_config import FinetuneConfig
from .prepared_run import encoded_rows
from .run_folder import RunFolder
from .sequence_result import SequenceResult
from .trainer import TargetTrainer, first_not_finite


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

    Examples:
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
    configs: list[FinetuneConfig] = []
    for number, task in enumerate(tasks, start=1):
        before = out / f"stage-{number - 1}"
        from_before: dict[str, Any] = {}
        if number > 1 and adapters == "keep":
            from_before["start_from"] = str(before)
        elif number > 1:
            from_before["base"] = str(before / "backbone")
        configs.append(replace(config, task=task, out=str(out / f"stage-{number}"), **from_before))
    loaded = [load_task(name, config, config.data_seed) for name in tasks]
    _check_tasks(config, loaded)
    if retrain_heads and all(task.kind != "classification" for task in loaded):
        raise SettingError(
            "retrain_heads is true, and none of the tasks is classification, whose heads could be trained again; "
            "leave it out"
        )
    record = _record(out)
    known = [] if record is None else list(record.get("tasks", []))
    if known != list(tasks[: len(known)]) or (out / f"stage-{len(tasks) + 1}").exists():
        of = f" ({', '.join(known)})" if known else ""
        raise SettingError(
            f"out '{out}' contains a sequence of other tasks{of}; choose another folder, or remove that one"
        )
    require_ours(out, ["sequence.json", "stage-1"], "a sequence")
    with working_folder(out):
        stages = [TaskStage(*stage) for stage in zip(configs, loaded, strict=True)]
        return _trained(config, stages, retrain_heads, audit, callbacks)


def has_finished(config: FinetuneConfig, tasks: Sequence[str], retrain_heads: bool = False) -> bool:
    record = _record(Path(config.out))
    return (
        record is not None
        and record.get("tasks") == list(tasks)
        and bool(record.get("head_steps")) == retrain_heads
    )


def _check_tasks(config: FinetuneConfig, tasks: Sequence[Task]) -> None:
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
        most, drops = config.max_eval_samples, config.drop_too_long
        for task in causal:
            encoded_rows(config, tokenizer, task.limited(config.max_train_samples, most), context)
            readable(task, tokenizer, whole, max_examples=most, drop_too_long=drops)


def _record(out: Path) -> dict[str, Any] | None:
    return read_document(out / "sequence.json", "the result of a sequence", SequenceResult.schema)


@dataclass(frozen=True)
class TaskStage:
    """One stage: the task, and the fine-tuning on it, whose folder has the models."""

    config: FinetuneConfig
    task: Task

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    @property
    def backbone(self) -> Path:
        """The model without its head, and with adapters merged."""
        return self.folder / "backbone"

    @property
    def head(self) -> Path:
        return self.folder / "head.safetensors"


def _trained(
    config: FinetuneConfig,
    stages: Sequence[TaskStage],
    retrain_heads: bool,
    audit: AuditSettings,
    callbacks: Callable[[], list[Any]],
) -> SequenceResult:
    compute = Compute(cache=MemoryCache())  # every stage is audited against the same base
    results: list[dict[str, Any]] = []
    for number, stage in enumerate(stages):
        run = train_unless_finished(stage.config, callbacks())
        if any(following.task.kind == "causal" for following in stages[number + 1 : number + 2]):
            remove_without_output_head(stage)
        head_of = None
        if any(other.task.kind == "causal" for other in stages):
            # Stages of classes leave the output head as the last stage of completions has it, or the first base.
            writers = [str(other.backbone) for other in stages[:number] if other.task.kind == "causal"]
            head_of = [config.base, *writers][-1]
        keep_backbone(stage, head_of=head_of)
        earlier = zip(stages[:number], results, strict=True)
        # A causal task has no head.
        again = [0 if other.task.kind == "causal" else result["steps"] for other, result in earlier]
        head_steps = again if retrain_heads else None
        measured = _measured(config, stages[: number + 1], head_steps, audit, compute)
        reached = None if config.match is None else run.record["stopped_by"] == "match"
        results.append(
            measured | {"steps": run.record["steps"], "reached": reached, "head_steps": head_steps}
        )
    of_stages = ("accuracies", "intruders", "vectors", "steps", "reached")
    finished = SequenceResult(
        tasks=[stage.config.task for stage in stages],
        sources=[stage.task.source for stage in stages],
        head_steps=[result["head_steps"] for result in results] if retrain_heads else [],
        **{name: [result[name] for result in results] for name in of_stages},
    )
    finished.save(Path(config.out) / "sequence.json")
    return finished


_KEPT_FOR = ("audit", "head_steps")  # settings of a stage's result


def _measured(
    config: FinetuneConfig,
    stages: Sequence[TaskStage],
    head_steps: Sequence[int] | None,
    audit: AuditSettings,
    compute: Compute,
) -> dict[str, Any]:
    # Accuracies and intruders after the last of ``stages``, measured on the first call and kept.
    last = stages[-1]
    file = last.folder / "stage.json"
    settings = {"audit": audit.recorded()} | ({} if head_steps is None else {"head_steps": head_steps})
    record = read_document(file, "the result of a stage of a sequence", SequenceResult.schema)
    # Heads that were kept are in no record.
    if record is None or {name: record[name] for name in _KEPT_FOR if name in record} != settings:
        # The head of the last stage has just been trained.
        steps = [*(head_steps or [0] * len(stages[:-1])), 0]
        row = [accuracy(config, last, stage, of_head) for stage, of_head in zip(stages, steps, strict=True)]
        base = base_model_location(config.base)
        audited = find_intruders(base, last.backbone, **vars(audit), **vars(compute))
        record = {"accuracies": row, "intruders": audited.intruders, "vectors": audited.vectors, **settings}
        write_atomically(file, (json.dumps(record) + "\n").encode())
    return record


def remove_without_output_head(stage: TaskStage) -> None:
    """Remove the backbone of a classifier if completions cannot be trained on it; it is then written with a head."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if stage.task.kind == "causal" or not stage.backbone.is_dir():
        return
    config = AutoConfig.from_pretrained(stage.backbone)
    has_head = not {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}.isdisjoint(config.architectures or ())
    if not (has_head or config.get_text_config().tie_word_embeddings):
        shutil.rmtree(stage.backbone)


def keep_backbone(stage: TaskStage, *, head_of: str | None) -> None:
    """Write the stage's model without its head, with adapters merged, and the head in a separate file.

    A classifier gets the output head of the model ``head_of``, for tasks of completions before or after this one.
    """
    if stage.head.is_file() and stage.backbone.is_dir():
        return
    RunFolder(stage.folder).require_model()
    with quiet_transformers():
        source, is_classifier = str(stage.folder), stage.task.kind == "classification"
        # In a folder that was moved, records and adapters name where the base was.
        location = GivenModel(source, stage.config.base).location
        # In float32 also on a base of 16 bits, which would round a part of the update away.
        model: Any = load_model(location, stage.task.kind, stage.task.labels, IN_SINGLE)
        if location != str(stage.folder.resolve()):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source).merge_and_unload()
        tensors = {
            f"{name}.{key}": value.contiguous()
            for name, head in (heads(model) if is_classifier else {}).items()
            for key, value in head.state_dict().items()
        }
        if is_classifier and head_of is not None:
            body = model.base_model.state_dict()
            model = load_model(base_model_location(head_of), "causal", loading=IN_SINGLE)
            model.base_model.load_state_dict(body)
        elif is_classifier:
            model = model.base_model
        with atomic_folder(stage.backbone, force=True) as folder:
            model.save_pretrained(folder)
            load_tokenizer(location).save_pretrained(folder)
            follow_umask(folder)
    write_atomically(stage.head, save(tensors))


def accuracy(config: FinetuneConfig, after: TaskStage, own: TaskStage, head_steps: int) -> float:
    """Measure the backbone ``after`` a stage on the task of an earlier or the same one, under the head of its ``own``.

    With ``head_steps`` that head is trained again for so many, on the backbone as it is.
    """
    location, task = str(after.backbone), own.task
    with quiet_transformers():
        model: Any = load_model(location, task.kind, task.labels, IN_SINGLE)
        head, tokenizer = load_file(own.head), load_tokenizer(location)
        model.load_state_dict(head, strict=False)
        if head_steps:
            limited = task.limited(config.max_train_samples, config.max_eval_samples)
            with scratch_folder(Path(config.out)) as scratch:
                retrain_head(model, head, tokenizer, limited, config, head_steps, scratch)
        is_causal = task.kind == "causal"
        context = longest_read(model.config) if is_causal else context_length(model.config, None)
        opened = OpenedModel(model, tokenizer, context)
        scored = readable(
            task, tokenizer, context, max_examples=config.max_eval_samples, drop_too_long=config.drop_too_long
        )
        _, examples = scored_examples(scored, None, config.max_eval_samples)
        right = graded(opened, scored, examples).right or []
        return sum(right) / len(right)


def retrain_head(
    model: Any,
    head: Mapping[str, Tensor],
    tokenizer: Any,
    task: Task,
    config: FinetuneConfig,
    steps: int,
    scratch: Path,
) -> None:
    """Train the head of ``task`` in ``model``, in place; the body is frozen, and stays so.

    Training begins from ``head``, by names in ``model``, and takes the batches, the learning rate and the schedule of
    ``config``. Order of rows and dropout are drawn by its seed, so that a second call gives the same head.
    """
    from transformers import set_seed

    set_seed(config.seed)
    model.load_state_dict(dict(head), strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    context = context_length(model.config, config.max_length)
    warmup = steps_of_warmup(config, steps)
    over = {"max_steps": steps, "warmup_steps": warmup, "save_strategy": "no", "report_to": "none"}
    trainer = TargetTrainer(
        model=model,
        args=training_arguments(config, scratch, **over),
        train_dataset=encode_classification(tokenizer, task.train, task.labels, context),
        data_collator=PadRight(pad_token_id(tokenizer)),
    )
    trainer.train()
    if first_not_finite(model) is not None:
        raise NonFiniteError(
            f"the head of task {task.name!r} became NaN or infinite when it was trained again; lower lr"
        )
