"""Fine-tuned models opened for evaluation: as a language model for losses, as what was trained for tasks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..checkpoints.stored.locate import locate
from ..checkpoints.writing.companions import own_tokenizer_files
from ..data.task import Task
from ..errors import CheckpointError, SettingError
from .encoding import context_length, longest_read
from .given_model import GivenModel
from .loading import load_model, load_tokenizer, refuse_unknown_tokens
from .loading_settings import AS_STORED, Loading
from .put_on_base import adapted
from .quiet import quiet_transformers
from .task_fit import check_kind, is_masked, labels_of, model_config, outputs_named


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to be measured."""

    model: nn.Module
    tokenizer: Any
    context: int  # tokens
    is_masked: bool = False
    notes: tuple[str, ...] = ()  # what a person should know of how it was opened
    # Of a classifier's outputs, in their order; where it names none, the task's are theirs.
    labels: Sequence[str] = ()

    @property
    def dtype(self) -> torch.dtype:
        own: Any = self.model
        dtype: torch.dtype = own.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def open_language_model(
    source: str, base: str | None = None, loading: Loading = AS_STORED, *, merged: bool = False
) -> OpenedModel:
    """Open ``source`` as a causal or masked language model, whatever it was fine-tuned as.

    An adapter computes beside its base's layers, in single precision where the base is in half; with ``merged`` its
    update is in their weights instead.

    A fine-tuned classifier is measured with its own encoder under the language-model head of its base, which
    fine-tuning left alone. Raises CheckpointError when the model cannot be loaded, or when its base has no such head.
    """
    with quiet_transformers():
        given = GivenModel(source, base)
        location = given.location
        masked = is_masked(location)
        model: Any = load_model(given.with_language_head, "masked" if masked else "causal", loading=loading)
        if given.is_classifier:
            classifier: Any = _classifier(given, None, loading)
            classifier, notes = adapted(classifier, given, merged=merged)
            if given.adapter is not None and not merged:
                # The module with an adapter beside its layers cannot give its weights away without merging them.
                setattr(model, model.base_model_prefix, classifier.base_model)
            else:
                left = model.base_model.load_state_dict(classifier.base_model.state_dict(), strict=False)
                if left.missing_keys:
                    raise CheckpointError(
                        f"{source!r} has no weights for {left.missing_keys[0]!r} of its base's language model"
                    )
        else:
            model, notes = adapted(model, given, merged=merged)
        tokenizer = load_tokenizer(location)
        refuse_unknown_tokens(model, tokenizer, location)
        context = longest_read(model.config)
        return reading_as(OpenedModel(model, tokenizer, context, masked, tuple(notes)), source)


def can_go_on(source: str, base: str) -> bool:
    """Return whether :func:`put_on` opens ``source`` as :func:`open_language_model` does, on an open base."""
    given = GivenModel(source)
    return given.adapter is not None and not given.is_classifier and GivenModel(base).adapter is None


def put_on(opened: OpenedModel, source: str, base: str) -> OpenedModel:
    """Put the adapter at ``source`` beside the layers of its base ``opened``, a language model; no weight is copied."""
    with quiet_transformers():
        model, notes = adapted(opened.model, GivenModel(source, base), merged=False)
        return reading_as(replace(opened, model=model, notes=tuple(notes)), source)


def reading_as(opened: OpenedModel, source: str) -> OpenedModel:
    """Return a model that reads as the adapter at ``source`` was trained to; unchanged if that is no adapter.

    A token beyond the embeddings of the model cannot be read, so then only the chat template is taken.
    """
    if not own_tokenizer_files(source):
        return opened
    tokenizer, model = opened.tokenizer, opened.model
    try:
        own = load_tokenizer(str(locate(source)))
    except CheckpointError:
        note = (
            f"transformers cannot load the tokenizer beside adapter {source!r}, so its base's is used; results are "
            "wrong if the adapter was trained with another chat template or other tokens"
        )
        return replace(opened, notes=(*opened.notes, note))
    template = getattr(own, "chat_template", None)
    of_base = getattr(tokenizer, "chat_template", None)
    tokens = own.get_vocab()
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    if tokens != tokenizer.get_vocab() and max(tokens.values(), default=0) < len(embeddings.weight):
        own.chat_template = of_base if template is None else template
        note = f"the tokenizer is that of adapter {source!r}, whose tokens differ from its base's"
    elif template is not None and template != of_base:
        own = copy.copy(tokenizer)  # the base may go on to be measured with its own
        own.chat_template = template
        note = f"the chat template is that of adapter {source!r}, which differs from its base's"
    else:
        return opened
    return replace(opened, tokenizer=own, notes=(*opened.notes, note))


def open_for_task(
    source: str, task: Task, base: str | None = None, loading: Loading = AS_STORED, *, merged: bool = False
) -> OpenedModel:
    """Open ``source`` as the kind of model that ``task`` needs, with its labels in the order of its outputs.

    ``loading`` and ``merged`` are those of :func:`open_language_model`.

    Raises SettingError when the model is of another kind than the task, or was trained on other labels than the task
    has, and CheckpointError when it has no trained head, or the label of an output is unknown.
    """
    with quiet_transformers():
        given = GivenModel(source, base)
        location = given.location
        check_kind(given, task)
        tokenizer = load_tokenizer(location)
        labels: list[str] = []
        if task.kind == "causal":
            model: Any = load_model(location, "causal", loading=loading)
            context = longest_read(model.config)
        else:
            model = _classifier(given, task.labels, loading)
            labels = outputs_named(model.config)
            _refuse_other_labels(source, labels, task)
            context = context_length(model.config, None)  # longer texts are cut, as in training
        model, notes = adapted(model, given, merged=merged)
        refuse_unknown_tokens(model, tokenizer, location)
        opened = OpenedModel(model, tokenizer, context, notes=tuple(notes), labels=labels)
        return reading_as(opened, source)


def check_for_task(given: GivenModel, task: Task) -> None:
    """Raise what :func:`open_for_task` raises, as far as it is known before any weights are loaded."""
    with quiet_transformers():
        check_kind(given, task)
        if task.kind == "classification":
            _refuse_other_labels(given.source, labels_of(given, task.labels), task)


def _classifier(given: GivenModel, labels: Sequence[str] | None, loading: Loading) -> Any:
    source, location, stored = given.source, given.location, given.training.labels
    if labels is None and given.adapter is not None and not stored:
        # A loss on text needs the encoder alone, and PEFT a head of the size that it has stored.
        classes = given.classes_of_head()
        if classes is None:
            raise CheckpointError(
                f"adapter {source!r} was trained as a classifier and has no weights of a head, so the number of its "
                "classes is not known; expected modules_to_save with 'score' or 'classifier'; save the adapter again"
            )
        stored = [str(number) for number in range(classes)]
    names = labels_of(given, labels) if labels is not None else stored
    model: Any = load_model(
        location, "classification", names or outputs_named(model_config(location)) or None, loading
    )
    missing = list(model.untrained)
    if given.adapter is not None:
        brought = list(given.tensors_of_adapter())
        missing = [name for name in missing if not any(key.endswith(f".{name}") for key in brought)]
    if missing and labels is not None:
        raise CheckpointError(
            f"{source!r} has no trained weights for {missing[0]!r} of its classifier, which would start at random; "
            "pass a model or an adapter that was fine-tuned on labels"
        )
    return model


def _refuse_other_labels(source: str, labels: Sequence[str], task: Task) -> None:
    unknown = sorted(set(task.labels) - set(labels))
    if unknown:
        raise SettingError(
            f"{source!r} was trained on {len(labels)} labels, and {unknown[0]!r} of task {task.name!r} is "
            f"not among them; it has {', '.join(map(repr, labels[:8]))}"
        )
