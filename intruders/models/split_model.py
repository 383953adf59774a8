"""A language model as a body, which makes hidden states, and a head, which makes logits of them.

Logits are the largest thing that a language model computes: tokens x vocabulary. With the two apart, they are computed
at chosen positions alone, and of hidden states that were kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SplitModel:
    """The body and the head of a model of transformers, or of a PEFT model around one."""

    def __init__(self, own: Any, body: nn.Module) -> None:
        """Take a transformers model apart; :meth:`of` finds its body."""
        self._own, self._body = own, body
        self._kind: Any = None  # of the body's outputs

    @classmethod
    def of(cls, model: Any) -> SplitModel | None:
        """Return the parts of a model; None if it cannot be split.

        It cannot if it has no body of its own, if it calls a part of its body past the body itself, or if PEFT puts a
        prompt before its input.
        """
        own = _without_wrapper(model)
        body = getattr(own, "base_model", None)
        if not isinstance(body, nn.Module) or body is own or _calls_past(own, body):
            return None
        return cls(own, body)

    @property
    def vocabulary(self) -> int:
        """The number of tokens that logits are computed of."""
        return int(self._own.config.get_text_config().vocab_size)

    def states(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Compute the hidden states (batch, width, hidden) of a batch; None if the body has not one of each token."""
        # What a causal model would keep for the next token is not asked for.
        options = {"use_cache": False} if self._own.can_generate() else {}
        given = self._body(**inputs, **options)
        self._kind = type(given)
        states: Tensor | None = getattr(given, "last_hidden_state", None)
        is_of_tokens = states is not None and states.shape[:2] == inputs["input_ids"].shape
        return states if is_of_tokens else None

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (positions, vocabulary) that the head makes of hidden states (positions, hidden).

        The states are the body's, after a call of :meth:`states`.
        """
        with _answering(self._body, self._kind(last_hidden_state=states[None])):
            stand_in = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
            logits: Tensor = self._own(input_ids=stand_in).logits[0]
            return logits


def _calls_past(own: Any, body: nn.Module) -> bool:
    """Return whether a causal model calls the decoder in its body and never the body, as OPT and BART do."""
    decoder = getattr(body, "decoder", None)
    return decoder is not None and own.can_generate() and own.get_decoder() is decoder


def _without_wrapper(model: Any) -> Any:
    """Return the transformers model in a PEFT model; None if PEFT puts a learned prompt before its input."""
    if not hasattr(model, "get_base_model"):
        return model if hasattr(model, "can_generate") else None
    return None if model.active_peft_config.is_prompt_learning else model.get_base_model()


@contextmanager
def _answering(body: nn.Module, output: Any) -> Iterator[None]:
    """Let the body return ``output`` for any input, so that the model's own head does the rest.

    Some models scale or cap their logits after the head; the head's module alone would not.
    """
    own = body.__dict__.get("forward")
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del body.forward
        if own is not None:
            body.forward = own
