"""What a model says of a batch's targets, as tensors that a gradient can be taken of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from .encoding import IGNORED, labels_of_next
from .split_model import SplitModel


def target_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of ``-log p(target)`` over the targets of a batch, in nats, in single precision or better.

    A classifier of transformers takes the loss of its logits in the type of its weights, which of 16 bits is too few.

    Args:
      model: a causal model or a classifier.
      batch: its arguments (batch, width), with the labels: (batch,) classes, or (batch, width) tokens, of which
        ``IGNORED`` and the first are no targets.
    """
    logits, labels = target_logits(model, batch)
    return cross_entropy(logits, labels)


def target_logits(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits (targets, classes or tokens) at the targets of a batch, as :func:`target_loss` takes it.

    They are in single precision or better. The targets themselves (targets,) come with them.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    labels = batch["labels"]
    if labels.dim() == 1:
        is_target = labels != IGNORED
        return in_single(model(**inputs).logits[is_target]), labels[is_target]
    labels = labels_of_next(labels)
    is_target = labels != IGNORED
    split = SplitModel.of(model) if is_target.any() else None
    states = None if split is None else split.states(inputs)
    if split is not None and states is not None:
        return in_single(split.logits(states[is_target])), labels[is_target]
    return in_single(model(**inputs).logits[is_target]), labels[is_target]


def in_single(tensor: Tensor) -> Tensor:
    """Return a tensor of 16 bits in single precision, and any other as it is."""
    return tensor.float() if tensor.element_size() < 4 else tensor
