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
        self._own, self._body = own, body
        self._kind: Any = None  # of the body's outputs

    @classmethod
    def of(cls, model: Any) -> SplitModel | None:
        """Return the parts of a model; None if it cannot be split.

        It cannot if it has no body of its own, if it calls a part of its body past the body itself, or if PEFT puts a
        prompt before its input.
        """
        own = model
        if hasattr(model, "get_base_model"):
            own = None if model.active_peft_config.is_prompt_learning else model.get_base_model()
        body = getattr(own, "base_model", None)
        if not hasattr(own, "can_generate") or not isinstance(body, nn.Module) or body is own:
            return None
        # A causal OPT or BART calls the decoder in its body and never the body.
        decoder = getattr(body, "decoder", None)
        calls_past = decoder is not None and own.can_generate() and own.get_decoder() is decoder
        return None if calls_past else cls(own, body)

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


@contextmanager
def _answering(body: nn.Module, output: Any) -> Iterator[None]:
    # The model's own head does the rest: some models scale or cap their logits after the head's module.
    own = body.__dict__.get("forward")
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del body.forward
        if own is not None:
            body.forward = own
