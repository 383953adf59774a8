"""How well a masked language model predicts text: the pseudo-loss, and a cheap, different estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, SettingError
from ..models.answers import evaluating
from ..models.encoding import IGNORED
from ..models.token_losses import token_losses
from ..system.out_of_memory import AS_GIVEN, Halving
from .losses import DocumentLosses

_BATCH = 32  # copies of a window in one pass, where nothing else is asked for


def pseudo_losses(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    window: int = 512,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    halving: Halving = AS_GIVEN,
    advance: Callable[[int], None] = lambda tokens: None,
) -> DocumentLosses:
    """Return -log p(token | the others of its window), masked one by one, summed over a document.

    The pseudo-log-likelihood of Salazar et al. (2020), with the sign of a loss. Documents are cut into
    windows that follow each other; special tokens are never masked. One forward pass per token, in batches.
    ``max_tokens`` of each document are read, from its start. ``advance`` is called with the tokens that a pass scored.
    """
    sums, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    with evaluating(model):
        for document, text in enumerate(documents):
            for ids, ordinary in _windows(tokenizer, text, window, max_tokens):
                for places in torch.split(ordinary, batch_size or _BATCH):
                    losses = halving.results(
                        places.tolist(),
                        lambda chosen, ids=ids: _masked_one_by_one(model, tokenizer, ids, chosen),  # type: ignore[misc]
                    )
                    sums[document] += sum(losses)
                    tokens[document] += len(places)
                    advance(len(places))
    return _collected("pseudo-loss", sums, tokens)


def _masked_one_by_one(model: nn.Module, tokenizer: Any, ids: Tensor, chosen: Sequence[int]) -> list[float]:
    """Return the loss at every chosen place of a window, with that place alone masked."""
    places = torch.tensor(chosen)
    rows = ids.repeat(len(places), 1)  # (places, width)
    numbers = torch.arange(len(places))
    rows[numbers, places] = tokenizer.mask_token_id
    losses: list[float] = _losses(model, rows, numbers, places, ids[places]).tolist()
    return losses


def masked_estimate(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    window: int = 512,
    max_tokens: int | None = None,
    rate: float = 0.15,
    seed: int = 0,
    advance: Callable[[int], None] = lambda tokens: None,
) -> DocumentLosses:
    """Return -log p of tokens masked together, a random 15 % of every window: the loss of BERT's pre-training.

    One pass per window. It is not the pseudo-loss: masked tokens do not see each other, so it is higher. Both
    models of a comparison get the same masks from the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    sums, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    with evaluating(model):
        for document, text in enumerate(documents):
            for ids, ordinary in _windows(tokenizer, text, window, max_tokens):
                count = max(1, round(rate * len(ordinary)))
                places = ordinary[torch.randperm(len(ordinary), generator=generator)[:count]]
                row = ids.clone()
                row[places] = tokenizer.mask_token_id
                losses = _losses(model, row[None], torch.zeros_like(places), places, ids[places])
                sums[document] += losses.sum()
                tokens[document] += len(places)
                advance(len(ordinary))
    return _collected("masked-15%-estimate", sums, tokens)


def _windows(tokenizer: Any, text: str, window: int, max_tokens: int | None) -> list[tuple[Tensor, Tensor]]:
    """Return by window the token ids (width,) with special tokens, and the positions of the ordinary tokens."""
    before, after = _special_tokens(tokenizer)
    room = window - len(before) - len(after)
    if room < 1:
        raise SettingError(f"window is {window}; expected room for a token beside the special ones")
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"][:max_tokens]
    pieces = []
    for start in range(0, len(ids), room):
        piece = ids[start : start + room]
        places = torch.arange(len(before), len(before) + len(piece))
        pieces.append((torch.tensor(before + piece + after), places))
    return pieces


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer puts before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def _losses(model: nn.Module, rows: Tensor, row_of: Tensor, place_of: Tensor, targets: Tensor) -> Any:
    """Return the loss at (row_of, place_of) of rows (batch, width) against targets (masked,), in double precision."""
    device = next(model.parameters()).device
    labels = torch.full_like(rows, IGNORED)
    labels[row_of, place_of] = targets
    inputs = {"input_ids": rows.to(device), "attention_mask": torch.ones_like(rows).to(device)}
    in_reading_order = token_losses(model, inputs, labels.to(device)).double().cpu()
    as_asked = torch.empty_like(in_reading_order)
    as_asked[torch.argsort(row_of * rows.shape[1] + place_of)] = in_reading_order
    losses = as_asked.numpy()
    if not np.isfinite(losses).all():
        raise NonFiniteError("the masked loss is not a number")
    return losses


def _collected(measure: str, sums: Any, tokens: Any) -> DocumentLosses:
    kept = tokens > 0
    if not kept.any():
        raise SettingError("no document has a token; there is nothing to score")
    return DocumentLosses(measure, sums[kept], tokens[kept])
