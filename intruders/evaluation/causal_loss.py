"""Cross-entropy of a causal language model over whole documents, by a sliding window."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import NonFiniteError, SettingError
from ..models.answers import evaluating
from ..models.encoding import IGNORED, PadRight, pad_token_id
from .losses import DocumentLosses

_BATCH_TOKENS = 2048  # bounds the logits in memory: tokens x vocabulary


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
) -> DocumentLosses:
    """-log p(token | those before it in its window), summed over each document.

    The window moves by ``stride`` tokens (half a window if not given); a token is scored once, in the first
    window that holds it, so with at least window - stride tokens of context unless the document begins there.
    ``max_tokens`` of each document are read, from its start.
    The first token of a document is scored only behind a begin-of-sequence token that the tokenizer adds.
    Raises SettingError for a stride outside [1, window], NonFiniteError for a loss that is no number.
    """
    stride = window // 2 if stride is None else stride
    if not 1 <= stride <= window or window < 2:
        raise SettingError(f"stride is {stride} and window {window}; expected a stride from 1 to the window")
    windows = [
        piece
        for document, text in enumerate(documents)
        for piece in sliding_windows(document, tokenizer(text)["input_ids"][:max_tokens], window, stride)
    ]
    sums, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    with evaluating(model):
        for batch in _batches(windows):
            for piece, losses in zip(batch, _window_losses(model, tokenizer, batch), strict=True):
                if not np.isfinite(losses).all():
                    raise NonFiniteError(f"the loss on document {piece.document + 1} is not a number")
                sums[piece.document] += losses.sum()
                tokens[piece.document] += len(losses)
    kept = tokens > 0
    if not kept.any():
        raise SettingError("no document has two tokens or more; there is nothing to score")
    return DocumentLosses("cross-entropy", sums[kept], tokens[kept])


def sliding_windows(document: int, ids: list[int], window: int, stride: int) -> Iterator[Window]:
    """Windows that score every token but the first just once."""
    scored_to = 1
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        if end > scored_to:
            yield Window(document, ids[begin:end], scored_to - begin)
            scored_to = end
        if end == len(ids):
            return


def _batches(windows: list[Window]) -> Iterator[list[Window]]:
    """Windows of like length together, as many as the bound on logits allows."""
    batch: list[Window] = []
    for piece in sorted(windows, key=lambda piece: len(piece.ids)):
        if batch and len(piece.ids) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


@torch.no_grad()
def _window_losses(model: nn.Module, tokenizer: Any, batch: list[Window]) -> list[Any]:
    device = next(model.parameters()).device
    rows = [{"input_ids": p.ids, "labels": [IGNORED] * p.scored_from + p.ids[p.scored_from :]} for p in batch]
    tensors = {name: value.to(device) for name, value in PadRight(pad_token_id(tokenizer))(rows).items()}
    labels = tensors.pop("labels")  # (batch, width)
    # Context alone needs no logits, which cost as much as several layers where the vocabulary is large.
    kept = labels.shape[1] - max(1, min(piece.scored_from for piece in batch))  # the first has none before it
    logits = _last_logits(model, tensors, kept + 1)[:, :-1]  # (batch, kept, vocabulary)
    labels = labels[:, -kept:]
    scored = labels != IGNORED
    losses = torch.zeros(labels.shape, dtype=torch.float32, device=device)
    losses[scored] = cross_entropy(logits[scored].float(), labels[scored], reduction="none")
    return [row[mask].double().cpu().numpy() for row, mask in zip(losses, scored, strict=True)]


def _last_logits(model: nn.Module, tensors: dict[str, Tensor], count: int) -> Tensor:
    """The logits of the last ``count`` places, computed for those alone where the model can."""
    own = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    can = "logits_to_keep" in inspect.signature(own.forward).parameters
    options: dict[str, Any] = {"logits_to_keep": count} if can else {}
    logits: Tensor = model(**tensors, use_cache=False, **options).logits
    return logits[:, -count:]
