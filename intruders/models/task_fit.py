"""Whether a model can be scored on a task, as far as its configuration tells, before any weights are loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.task import Task
from ..errors import CheckpointError, SettingError, first_line
from ..system.files import as_given
from .given_model import GivenModel


def check_kind(given: GivenModel, task: Task) -> None:
    """Refuse a model of another kind than the task, as far as its files and what transformers loads for it tell."""
    source, location, adapter = given.source, given.location, given.adapter
    if task.kind == "causal":
        if given.is_classifier:
            raise SettingError(
                f"{source!r} was trained as a classifier and writes no text, but task {task.name!r} has prompts and "
                "completions; pass a task with labels (--text and --label), or a model that was trained on completions"
            )
        refuse_masked(source, location, task)
        return
    why = None
    if adapter is None:
        # A configuration without an architecture is a classifier if its weights are.
        architectures = model_config(location).architectures
        if architectures and not any(name.endswith("ForSequenceClassification") for name in architectures):
            why = "is a language model or an encoder"
    elif adapter.values.get("task_type") == "CAUSAL_LM":
        why = "was trained on completions"
    if why is not None:
        raise SettingError(
            f"{source!r} {why} and has no trained classification head, but task {task.name!r} has labels; pass a model "
            "that was fine-tuned on labels, or a task with prompts and completions (--prompt and --completion)"
        )


def refuse_masked(source: str, location: str, task: Task) -> None:
    """Refuse prompts and completions for a model that reads both directions and so cannot continue a prompt."""
    if task.kind == "causal" and is_masked(location):
        raise SettingError(
            f"{source!r} is a masked language model, which cannot complete the prompts of task {task.name!r}; pass a "
            "causal model, or a task with labels (--text and --label)"
        )


def is_masked(location: str) -> bool:
    """Return whether transformers has the model as a masked language model, or else as a causal one.

    CheckpointError for an encoder-decoder: transformers would load a whole BART as a masked model, and of others the
    decoder alone, which then reads a text without what the encoder should tell it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = model_config(location)
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{as_given(location)!r} is an encoder-decoder ({config.model_type}), whose text and answers are not "
            "measured here; expected a causal or masked language model; pass one, or see what changed in its weights "
            "with 'intruders audit'"
        )
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def labels_of(given: GivenModel, labels: Sequence[str]) -> list[str]:
    """Return the labels of a classifier's outputs, in order.

    The record of its training has them. Otherwise the configuration that transformers loads names them, or they are
    class numbers if the task's ``labels`` are such. No other order is guessed: CheckpointError.
    """
    if given.training.labels:
        return given.training.labels
    named = outputs_named(model_config(given.location))
    if named != [f"LABEL_{index}" for index in range(len(named))]:
        return named
    known = len(named) if given.adapter is None else given.classes_of_head()
    classes = range(known or len(labels))
    stand_ins, numbers = [f"LABEL_{index}" for index in classes], [str(index) for index in classes]
    # A task need not have rows of every class. Without any of class 0, its numbers may count from 1.
    if set(labels) <= set(stand_ins):
        return stand_ins
    if "0" in labels and set(labels) <= set(numbers):
        return numbers
    shown = ", ".join(map(repr, labels[:4])) + (", ..." if len(labels) > 4 else "")
    raise CheckpointError(
        f"{given.source!r} does not say which label each of its outputs stands for, and the order of {shown} is not "
        f"guessed; name them as id2label in {str(Path(given.location) / 'config.json')!r}, or write the task's labels "
        f"as class numbers 0 to {len(classes) - 1}, with rows of class 0"
    )


def outputs_named(config: Any) -> list[str]:
    """Return the labels of a classifier's outputs, in order, as its configuration names them."""
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def model_config(location: str) -> Any:
    """Return transformers' configuration of a model; CheckpointError if it cannot read one."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} cannot be loaded by transformers: {first_line(error)}"
        ) from error
