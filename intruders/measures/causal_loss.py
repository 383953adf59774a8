"""Cross-entropy of a causal language model over complete documents, by a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..errors import NonFiniteError, SettingError
from ..models.answers import evaluating
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.token_losses import token_losses
from ..system.out_of_memory import AS_GIVEN, Halving
from .losses import DocumentLosses

_BATCH_TOKENS = 2048  # in one pass, where no number of windows is asked for
_PADDING = 1 / 8  # of a batch at most: what is padded is computed too


@dataclass(frozen=True)
class Window:
    """A stretch of one document; tokens before ``scored_from`` are context only."""

    document: int
    ids: list[int]
    scored_from: int


def causal_losses(
    model: nn.Module,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    window: int = 1024,
    stride: int | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    halving: Halving = AS_GIVEN,
    advance: Callable[[int], None] = lambda tokens: None,
) -> DocumentLosses:
    """Return -log p(token | those before it in its window), summed over each document.

    The window moves by ``stride`` tokens (half a window if not given); a token is scored once, in the first
    window that contains it. It has at least window - stride tokens of context unless the document begins there.
    The first token of a window is never scored, so a stride equal to the window leaves out one token per window.
    ``max_tokens`` of each document are read, from its start.
    ``batch_size`` is the number of windows in one pass, ``halving`` what is done with one that does not fit in memory,
    and ``advance`` is called with the tokens that it scored.
    The first token of a document is scored only after a begin-of-sequence token that the tokenizer adds.
    Raises SettingError for a stride outside [1, window], NonFiniteError for a loss that is NaN or infinite.
    """
    stride = window // 2 if stride is None else stride
    if not 1 <= stride <= window or window < 2:
        raise SettingError(f"stride is {stride} and window {window}; expected a stride from 1 to the window")
    windows = [
        piece
        for document, text in enumerate(documents)
        for piece in sliding_windows(document, ids_of(tokenizer, text, max_tokens), window, stride)
    ]
    sums, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    with evaluating(model):
        for batch in _batches(windows, batch_size):
            results = halving.results(batch, lambda pieces: _window_losses(model, tokenizer, pieces))
            for piece, losses in zip(batch, results, strict=True):
                if not np.isfinite(losses).all():
                    raise NonFiniteError(f"the loss on document {piece.document + 1} is not a number")
                sums[piece.document] += losses.sum()
                tokens[piece.document] += len(losses)
                advance(len(losses))
    kept = tokens > 0
    if not kept.any():
        raise SettingError("no document has two tokens or more; there is nothing to score")
    return DocumentLosses("cross-entropy", sums[kept], tokens[kept])


def ids_of(tokenizer: Any, text: str, most: int | None) -> list[int]:
    """Return the first tokens of a document. It may exceed the model's context; its windows do not."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"][:most]
    return ids


def sliding_windows(document: int, ids: list[int], window: int, stride: int) -> Iterator[Window]:
    """Return windows that score every token but the first exactly once.

    With a stride equal to the window, they score all but the first token of each window.
    """
    scored_to = 1
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        first = max(scored_to, begin + 1)  # the first token of a window has nothing before it
        if end > first:
            yield Window(document, ids[begin:end], first - begin)
            scored_to = end
        if end == len(ids):
            return


def _batches(windows: list[Window], batch_size: int | None) -> Iterator[list[Window]]:
    """Batch windows of similar length, longest first, so that too large a batch fails at once."""
    batch: list[Window] = []
    for piece in sorted(windows, key=lambda piece: -len(piece.ids)):
        if batch:
            width, count = len(batch[0].ids), len(batch) + 1
            padding = count * width - sum(len(other.ids) for other in batch) - len(piece.ids)
            is_full = count > batch_size if batch_size else count * width > _BATCH_TOKENS
            if is_full or padding > _PADDING * count * width:
                yield batch
                batch = []
        batch.append(piece)
    if batch:
        yield batch


def _window_losses(model: nn.Module, tokenizer: Any, batch: Sequence[Window]) -> list[Any]:
    device = next(model.parameters()).device
    rows = [{"input_ids": p.ids, "labels": [IGNORED] * p.scored_from + p.ids[p.scored_from :]} for p in batch]
    tensors = {name: value.to(device) for name, value in PadRight(pad_token_id(tokenizer))(rows).items()}
    losses = token_losses(model, tensors, labels_of_next(tensors.pop("labels"))).double().cpu().numpy()
    ends = np.cumsum([len(piece.ids) - piece.scored_from for piece in batch])
    return np.split(losses, ends[:-1])
