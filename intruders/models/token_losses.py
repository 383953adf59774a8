"""-log p of chosen tokens, and a loss of a batch that a gradient is taken of, with logits at chosen positions alone.

Logits are the largest thing that a language model computes: tokens x vocabulary. So it is taken apart here into a body,
which makes hidden states, and a head, which makes logits of those that are chosen, or that were kept.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .encoding import IGNORED

# Numbers: 16 MiB in single precision. The C library returns blocks above 32 MiB to the system when they are freed,
# and the next part would have to be given every page anew.
_LOGITS_AT_ONCE = 1 << 22
_FEWEST_PLACES = 64  # at once, so that the head's own weights are not read anew for every few places


@torch.no_grad()
def token_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Compute ``-log p(label)`` in nats, in single precision, one per label in the order of reading.

    ``inputs`` are the arguments of a language model, (batch, width) each, and ``labels`` (batch, width) the token that
    is predicted *at* each position, or ``IGNORED``.
    """
    return torch.cat([_losses(logits, wanted) for logits, wanted in _logits_in_parts(model, inputs, labels)])


@torch.no_grad()
def losses_and_hits(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return :func:`token_losses`, and whether each label is the most likely one there; labels (batch,) are classes."""
    parts = [
        (_losses(logits, wanted), logits.argmax(dim=-1) == wanted)
        for logits, wanted in _logits_in_parts(model, inputs, labels)
    ]
    return torch.cat([losses for losses, _ in parts]), torch.cat([hits for _, hits in parts])


def _losses(logits: Tensor, wanted: Tensor) -> Tensor:
    return cross_entropy(in_single(logits), wanted, reduction="none")


def _logits_in_parts(
    model: Any, inputs: dict[str, Tensor], labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    # The logits are (targets, classes or tokens), at labels, in order, some at a time; a classifier has few.
    chosen = labels != IGNORED  # (batch, width) or (batch,)
    split = SplitModel.of(model) if labels.dim() > 1 and chosen.any() else None
    states = None if split is None else split.states(inputs)
    if split is None or states is None:
        yield model(**inputs).logits[chosen], labels[chosen]
        return
    parts = (torch.split(whole[chosen], split.places_at_once) for whole in (states, labels))
    for some, wanted in zip(*parts, strict=True):
        yield split.logits(some), wanted


def add_gradient_in_parts(
    model: Any,
    inputs: dict[str, Tensor],
    chosen: Tensor,
    loss_of: Callable[[Tensor, slice], Tensor],
    factor: float,
) -> float:
    """Add ``factor`` times the gradient of the summed losses at ``chosen`` places, and return the sum.

    ``chosen`` is (batch, width), or (batch,) of classes. ``loss_of`` gets the logits (places, tokens or classes), in
    single precision or better, some places at a time, and which of all chosen places they are. The gradient in the
    hidden states is put together before the body's is taken.
    """
    split = SplitModel.of(model) if chosen.dim() > 1 else None
    states = None if split is None else split.states(inputs)
    if split is None or states is None:
        loss = loss_of(in_single(model(**inputs).logits[chosen]), slice(None))
        (factor * loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
    at_places, total, first = states[chosen], 0.0, 0  # (places, hidden)
    parts = [part.detach().requires_grad_() for part in torch.split(at_places, split.places_at_once)]
    for part in parts:
        loss = loss_of(in_single(split.logits(part)), slice(first, first + len(part)))
        (factor * loss).backward()  # type: ignore[no-untyped-call]
        total, first = total + float(loss.detach()), first + len(part)
    if at_places.requires_grad:  # not where the head alone is learned
        gradient = torch.cat([part.grad for part in parts if part.grad is not None])
        at_places.backward(gradient)  # type: ignore[no-untyped-call]
    return total


def add_gradient_of_labels(model: Any, inputs: dict[str, Tensor], labels: Tensor, factor: float) -> float:
    """Add ``factor`` times the gradient of the losses of labels, as of :func:`token_losses`; return their sum."""
    chosen = labels != IGNORED
    wanted = labels[chosen]
    return add_gradient_in_parts(
        model, inputs, chosen, lambda logits, places: _losses(logits, wanted[places]).sum(), factor
    )


def in_single(tensor: Tensor) -> Tensor:
    """Return a tensor of 16 bits in single precision, and any other as it is."""
    return tensor.float() if tensor.element_size() < 4 else tensor


class SplitModel:
    """The body and the head of a model of transformers, or of a PEFT model around one."""

    def __init__(self, own: Any, body: nn.Module) -> None:
        self._own, self._body = own, body
        self._kind: Any = None  # of the body's outputs

    @classmethod
    def of(cls, model: Any) -> "SplitModel | None":
        """Return the parts of a model; None if a part is called past its body, or a prompt is put before its input."""
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
    def places_at_once(self) -> int:
        """The number of places whose logits are in memory at a time."""
        return max(_FEWEST_PLACES, _LOGITS_AT_ONCE // int(self._own.config.get_text_config().vocab_size))

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
        """Return the logits (positions, vocabulary) that the head makes of the body's states (positions, hidden)."""
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
