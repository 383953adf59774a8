"""The models of a sequence's stages: bodies without heads, heads in files and trained again, scores of the two."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ..data.task import Task
from ..errors import NonFiniteError
from ..measures.task_score import readable, scored_examples
from ..models.answers import graded
from ..models.base_model import base_model_location
from ..models.encoding import PadRight, context_length, encode_classification, longest_read, pad_token_id
from ..models.given_model import GivenModel
from ..models.loading import heads, load_model, load_tokenizer
from ..models.loading_settings import IN_SINGLE
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel
from ..system.files import write_atomically
from ..system.folders import atomic_folder, follow_umask, scratch_folder
from .arguments import steps_of_warmup, training_arguments
from .finetune_config import FinetuneConfig
from .run_folder import RunFolder
from .trainer import TargetTrainer, first_not_finite


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
