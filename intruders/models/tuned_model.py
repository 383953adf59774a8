"""Fine-tuned models opened for evaluation: as a language model for losses, as what was trained for tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.demo_models import resolved_adapter
from ..data.task import Task
from ..errors import CheckpointError, SettingError, first_line
from .base_model import base_model_location
from .encoding import context_length
from .finetuned_folder import FinetunedFolder
from .loading import load_model, load_tokenizer
from .quiet import quiet_transformers

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to be measured."""

    model: nn.Module
    tokenizer: Any
    context: int  # tokens
    is_masked: bool = False


def open_language_model(source: str, base: str | None = None) -> OpenedModel:
    """``source`` as a causal or masked language model, whatever it was fine-tuned as.

    A fine-tuned classifier is measured with its own encoder under the language-model head of its base, which
    fine-tuning left alone. Raises CheckpointError when it cannot be loaded, or when there is no such head.
    """
    source = resolved_adapter(source)
    with quiet_transformers():
        adapter = _adapter_config(source)
        location = base_location(source, base)
        is_masked = _is_masked(location)
        if _is_classifier(source, adapter):
            model = _language_model(location if adapter else _head_location(source, base), is_masked)
            classifier: Any = _classifier(source, adapter, location, None)
            encoder = classifier.base_model.state_dict()
            left = model.base_model.load_state_dict(encoder, strict=False)
            if left.missing_keys:
                raise CheckpointError(
                    f"{source!r} has no weights for {left.missing_keys[0]!r} of its base's language model"
                )
        else:
            model = _language_model(location, is_masked)
            if adapter is not None:
                model = _with_adapter(model, source)
        tokenizer = load_tokenizer(location)
    return OpenedModel(model, tokenizer, context_length(_config(model), None), is_masked)


def open_for_task(source: str, task: Task, base: str | None = None) -> tuple[OpenedModel, list[str]]:
    """``source`` as the kind of model that ``task`` needs, and its labels in the order of its outputs.

    Raises SettingError when the model was trained on other labels than the task has.
    """
    source = resolved_adapter(source)
    with quiet_transformers():
        adapter = _adapter_config(source)
        location = base_location(source, base)
        tokenizer = load_tokenizer(location)
        if task.kind == "causal":
            model = load_model(location, "causal")
            if adapter is not None:
                model = _with_adapter(model, source)
            labels: list[str] = []
        else:
            model = _classifier(source, adapter, location, task.labels)
            labels = _labels_in_order(source, model, task)
    return OpenedModel(model, tokenizer, context_length(_config(model), None)), labels


def base_location(source: str, base: str | None) -> str:
    """Where the model that transformers loads first lies: an adapter's base, or ``source`` itself."""
    adapter = _adapter_config(source)
    if adapter is None:
        return base_model_location(source)
    named = base or adapter.get("base_model_name_or_path")
    if not named:
        raise CheckpointError(f"adapter {source!r} does not name its base; pass it with --base")
    try:
        return base_model_location(str(named))
    except CheckpointError as error:
        raise CheckpointError(f"adapter {source!r}: {error}; pass the base with --base") from error


def _head_location(source: str, base: str | None) -> str:
    """Where the language-model head of a classifier that was trained in full is to be found."""
    folder = None if base is not None else FinetunedFolder.of(source)
    return base_model_location(base or (folder and folder.base) or source)


def _adapter_config(source: str) -> dict[str, Any] | None:
    file = Path(source).expanduser() / _ADAPTER
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(file)!r} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{str(file)!r} contains no settings; expected those of a PEFT adapter")
    return config


def _is_classifier(source: str, adapter: dict[str, Any] | None) -> bool:
    if adapter is not None:
        return adapter.get("task_type") == "SEQ_CLS"
    file = Path(source).expanduser() / "config.json"
    architectures = (
        json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
    )
    return any(name.endswith("ForSequenceClassification") for name in architectures or [])


def _is_masked(location: str) -> bool:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} cannot be loaded by transformers: {first_line(error)}"
        ) from error
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)


def _language_model(location: str, is_masked: bool) -> Any:
    if not is_masked:
        return load_model(location, "causal")
    from transformers import AutoModelForMaskedLM

    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            location, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} cannot be loaded as a masked language model: {first_line(error)}"
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{location!r} has no masked-language-model head ({sorted(info['missing_keys'])[0]} is missing), "
            "so its loss on text is not defined; pass with --base a model that has one"
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _classifier(
    source: str, adapter: dict[str, Any] | None, location: str, labels: Sequence[str] | None
) -> nn.Module:
    if adapter is None:
        return load_model(location, "classification", _stored_labels(source) or labels)
    folder = FinetunedFolder.of(source)
    trained_on = (folder and folder.labels) or labels
    if not trained_on:
        raise CheckpointError(
            f"adapter {source!r} has no record of its labels (run.json); they cannot be guessed"
        )
    return _with_adapter(load_model(location, "classification", trained_on), source)


def _with_adapter(model: nn.Module, source: str) -> nn.Module:
    from peft import PeftModel

    try:
        merged: nn.Module = PeftModel.from_pretrained(
            model, str(Path(source).expanduser())
        ).merge_and_unload()
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise CheckpointError(
            f"adapter {source!r} cannot be put on its base by PEFT: {first_line(error)}"
        ) from error
    return merged


def _stored_labels(source: str) -> list[str] | None:
    file = Path(source).expanduser() / "config.json"
    if not file.is_file():
        return None
    names = json.loads(file.read_text(encoding="utf-8")).get("id2label") or {}
    return [str(names[key]) for key in sorted(names, key=int)] or None


def _labels_in_order(source: str, model: nn.Module, task: Task) -> list[str]:
    names = _config(model).id2label
    labels = [str(names[index]) for index in sorted(names)]
    if labels == [f"LABEL_{index}" for index in range(len(labels))] and len(labels) == len(task.labels):
        return task.labels  # never named: transformers' stand-ins, in the order of the classes
    unknown = sorted(set(task.labels) - set(labels))
    if unknown:
        raise SettingError(
            f"{source!r} was trained on {len(labels)} labels, and {unknown[0]!r} of task {task.name!r} is "
            f"not among them; it has {', '.join(map(repr, labels[:8]))}"
        )
    return labels


def _config(model: nn.Module) -> Any:
    return model.config
