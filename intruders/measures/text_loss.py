"""How well a model predicts text: cross-entropy of a causal one, pseudo-loss or a cheap estimate of a masked one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NonFiniteError, SettingError
from ..models.answers import evaluating
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.token_losses import token_losses
from ..models.tuned_model import OpenedModel
from ..system.out_of_memory import AS_GIVEN, Halving
from .losses import DocumentLosses
from .measure_settings import NO_LOSSES, LossSettings

WINDOW = 1024  # tokens, or the model's context where that is less
_MASKED = 0.15  # of a window at once, in the estimate
_BATCH_TOKENS = 2048  # in one pass, where no number of windows is asked for
_BATCH = 32  # copies of a window of a masked model in one pass, likewise
_PADDING = 1 / 8  # of a batch at most: what is padded is computed too


@dataclass(frozen=True)
class Window:
    """A stretch of one document; tokens before ``scored_from`` are context only."""

    document: int
    ids: list[int]
    scored_from: int


def width_of(opened: OpenedModel, settings: LossSettings) -> int:
    """Return the number of tokens in a window."""
    return min(settings.window or WINDOW, opened.context)


def text_losses(
    opened: OpenedModel,
    documents: Sequence[str],
    settings: LossSettings = NO_LOSSES,
    *,
    seed: int = 0,
    halving: Halving = AS_GIVEN,
    advance: Callable[[int], None] = lambda tokens: None,
) -> DocumentLosses:
    """Return losses summed over each document: the cross-entropy of a causal model, the pseudo-loss of a masked one.

    ``settings.estimate`` takes the cheap 15 % estimate instead of the pseudo-loss; it is a different quantity.
    ``halving`` is what is done with a batch that does not fit in memory, and ``advance`` is called with the tokens that
    a pass has done. Raises SettingError for a stride outside [1, window], NonFiniteError for a loss that is NaN or
    infinite.
    """
    needed = "a token"
    if not opened.is_masked:
        measure, needed = "cross-entropy", "two tokens or more"
        passes = _causal(opened, documents, settings, halving)
    elif settings.estimate:
        measure, passes = "masked-15%-estimate", _estimated(opened, documents, settings, seed)
    else:
        measure, passes = "pseudo-loss", _pseudo(opened, documents, settings, halving)
    sums, tokens = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    with evaluating(opened.model):
        for document, losses, done in passes:
            sums[document] += np.sum(losses)
            tokens[document] += len(losses)
            advance(done)
    kept = tokens > 0
    if not kept.any():
        raise SettingError(f"no document has {needed}; there is nothing to score")
    return DocumentLosses(measure, sums[kept], tokens[kept])


# The number of a document, the losses of tokens of it, and how many tokens are done with them.
_Pass = tuple[int, Any, int]


def _causal(
    opened: OpenedModel, documents: Sequence[str], settings: LossSettings, halving: Halving
) -> Iterator[_Pass]:
    """Yield -log p(token | those before it in its window).

    The window moves by ``stride`` tokens (half a window if not given); a token is scored once, in the first
    window that contains it. It has at least window - stride tokens of context unless the document begins there.
    The first token of a window is never scored, so a stride equal to the window leaves out one token per window.
    The first token of a document is scored only after a begin-of-sequence token that the tokenizer adds.
    """
    tokenizer, window = opened.tokenizer, width_of(opened, settings)
    stride = window // 2 if settings.stride is None else settings.stride
    if not 1 <= stride <= window or window < 2:
        raise SettingError(f"stride is {stride} and window {window}; expected a stride from 1 to the window")
    windows = [
        piece
        for document, text in enumerate(documents)
        for piece in sliding_windows(document, ids_of(tokenizer, text, settings.max_tokens), window, stride)
    ]
    pad = PadRight(pad_token_id(tokenizer))

    def read(batch: Sequence[Window]) -> list[Any]:
        rows = [
            {"input_ids": p.ids, "labels": [IGNORED] * p.scored_from + p.ids[p.scored_from :]} for p in batch
        ]
        tensors = {key: value.to(opened.device) for key, value in pad(rows).items()}
        labels = labels_of_next(tensors.pop("labels"))
        losses = token_losses(opened.model, tensors, labels).double().cpu().numpy()
        ends = np.cumsum([len(piece.ids) - piece.scored_from for piece in batch])
        return np.split(losses, ends[:-1])

    for batch in _batches(windows, settings.windows):
        for piece, losses in zip(batch, halving.results(batch, read), strict=True):
            if not np.isfinite(losses).all():
                raise NonFiniteError(f"the loss on document {piece.document + 1} is not a number")
            yield piece.document, losses, len(losses)


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


def _pseudo(
    opened: OpenedModel, documents: Sequence[str], settings: LossSettings, halving: Halving
) -> Iterator[_Pass]:
    """Yield -log p(token | the others of its window), masked one by one.

    The pseudo-log-likelihood of Salazar et al. (2020), with the sign of a loss. Documents are cut into
    windows that follow each other; special tokens are never masked. One forward pass per token, in batches.
    """
    for document, ids, ordinary in _masked_windows(opened, documents, settings):
        measure = partial(_masked_losses, opened, ids)
        for places in torch.split(ordinary, settings.windows or _BATCH):
            yield document, halving.results(places.unsqueeze(1).tolist(), measure), len(places)


def _estimated(
    opened: OpenedModel, documents: Sequence[str], settings: LossSettings, seed: int
) -> Iterator[_Pass]:
    """Yield -log p of tokens masked together, a random 15 % of every window: the loss of BERT's pre-training.

    One pass per window. It is not the pseudo-loss: masked tokens do not see each other, so it is higher. Both
    models of a comparison get the same masks from the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    for document, ids, ordinary in _masked_windows(opened, documents, settings):
        count = max(1, round(_MASKED * len(ordinary)))
        places = ordinary[torch.randperm(len(ordinary), generator=generator)[:count]]
        yield document, _masked_losses(opened, ids, [places.tolist()]), len(ordinary)


def _masked_windows(
    opened: OpenedModel, documents: Sequence[str], settings: LossSettings
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each window's document, token ids (width,) with special tokens, and positions of the ordinary tokens."""
    tokenizer, window = opened.tokenizer, width_of(opened, settings)
    encoded = tokenizer("a", return_special_tokens_mask=True)
    special = encoded["special_tokens_mask"]
    before = encoded["input_ids"][: special.index(0)]
    after = encoded["input_ids"][len(special) - special[::-1].index(0) :]
    room = window - len(before) - len(after)
    if room < 1:
        raise SettingError(f"window is {window}; expected room for a token beside the special ones")
    for document, text in enumerate(documents):
        encoded = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        ids = encoded["input_ids"][: settings.max_tokens]
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            ordinary = torch.arange(len(before), len(before) + len(piece))
            yield document, torch.tensor(before + piece + after), ordinary


def _masked_losses(opened: OpenedModel, ids: Tensor, places: Sequence[Sequence[int]]) -> list[float]:
    """Return the losses at places of a window (width,), those of a row masked together, in the order of reading."""
    masked = torch.zeros(len(places), len(ids), dtype=torch.bool).scatter_(1, torch.tensor(places), True)
    rows = torch.where(masked, opened.tokenizer.mask_token_id, ids)
    labels = torch.where(masked, ids, IGNORED)
    attended = torch.ones_like(rows, device=opened.device)
    inputs = {"input_ids": rows.to(opened.device), "attention_mask": attended}
    losses: list[float] = token_losses(opened.model, inputs, labels.to(opened.device)).tolist()
    if not np.isfinite(losses).all():
        raise NonFiniteError("the masked loss is not a number")
    return losses
