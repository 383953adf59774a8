"""-log p of chosen tokens, with logits only at their positions and at few positions at a time.

Logits are the largest thing that a language model computes: tokens x vocabulary. A model of 270 million weights with a
vocabulary of 262,144 has more of its arithmetic in its head than in all of its layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .encoding import IGNORED

_LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in single precision
_FEWEST_PLACES = 64  # at once, so that the head's own weights are not read anew for every few places


@torch.no_grad()
def token_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Compute ``-log p(label)`` at positions with a label.

    Args:
      model: a causal or masked language model, or a PEFT model around one.
      inputs: the model's arguments, (batch, width) each.
      labels: (batch, width), the token that is predicted *at* each position, or ``IGNORED``.

    Returns:
      Losses in nats, in single precision, one per label in the order of reading.
    """
    parts = [_losses(logits, wanted) for logits, wanted in _logits_in_parts(model, inputs, labels)]
    return torch.cat(parts) if parts else torch.empty(0, device=labels.device)


@torch.no_grad()
def losses_and_hits(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`token_losses`, and whether each label is the most likely token at its position."""
    parts = [
        (_losses(logits, wanted), logits.argmax(dim=-1) == wanted)
        for logits, wanted in _logits_in_parts(model, inputs, labels)
    ]
    return torch.cat([losses for losses, _ in parts]), torch.cat([hits for _, hits in parts])


def _losses(logits: Tensor, wanted: Tensor) -> Tensor:
    return cross_entropy(logits.float(), wanted, reduction="none")


def _logits_in_parts(
    model: nn.Module, inputs: dict[str, Tensor], labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits (positions, vocabulary) at labels, with the labels, in order, some at a time."""
    chosen = labels != IGNORED  # (batch, width)
    own = _without_wrapper(model)
    backbone: Any = getattr(own, "base_model", None)
    states = None
    if isinstance(backbone, nn.Module) and backbone is not own:
        # What a causal model would keep for the next token is not asked for.
        options = {"use_cache": False} if own.can_generate() else {}
        given = backbone(**inputs, **options)
        states = getattr(given, "last_hidden_state", None)
    if states is None or states.shape[:2] != chosen.shape:
        yield model(**inputs).logits[chosen], labels[chosen]
        return
    step = max(_FEWEST_PLACES, _LOGITS_AT_ONCE // int(own.config.get_text_config().vocab_size))
    for some, wanted in zip(
        torch.split(states[chosen], step), torch.split(labels[chosen], step), strict=True
    ):
        with _answering(backbone, type(given)(last_hidden_state=some[None])):
            stand_in = torch.zeros((1, len(some)), dtype=torch.long, device=some.device)
            yield own(input_ids=stand_in).logits[0], wanted


def _without_wrapper(model: Any) -> Any:
    """Return the transformers model in a PEFT model; None if PEFT puts a learned prompt before its input."""
    if not hasattr(model, "get_base_model"):
        return model if hasattr(model, "can_generate") else None
    return None if model.active_peft_config.is_prompt_learning else model.get_base_model()


@contextmanager
def _answering(backbone: nn.Module, output: Any) -> Iterator[None]:
    """Let the backbone return ``output`` for any input, so that the model's own head does the rest.

    Some models scale or cap their logits after the head; the head's module alone would not.
    """
    own = backbone.__dict__.get("forward")
    backbone.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del backbone.forward
        if own is not None:
            backbone.forward = own
