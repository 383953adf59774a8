"""The objective of a healing: the divergence from the base on text, and from the tuned model on examples of the task.

On examples the tuned model's own predictions are what to keep (distillation; Hinton, Vinyals and Dean 2015), not their
labels: a few dozen labels could be learned further than the tuned model has, at the cost of all other examples.
"""

import math
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.nn.utils.rnn import pad_sequence

from ..errors import NonFiniteError
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.token_losses import SplitModel, add_gradient_in_parts, add_gradient_of_labels, in_single
from ..models.tuned_model import OpenedModel
from .dosed_model import DoseVector
from .experiment_settings import DOCUMENTS, EXAMPLES

# Of some texts by number: the model's inputs (texts, width), and where its predictions count, bool (texts, width).
Encoded = Callable[[Sequence[int]], tuple[dict[str, Tensor], Tensor]]

# What a model that stays predicts: of the positions that count, the logits (positions, classes or tokens) of these.
Known = Callable[[slice], Tensor]

# Bounds the activations of a part of a step in memory: tokens x vocabulary.
_LOGITS = 2**25

_MASKED = 0.15


def turns_of_parts(
    counts: Sequence[int], weights: Sequence[float], size: int, step: int, seed: int
) -> list[list[int]]:
    """Return the positions of a step in every part of a mixture, in the order drawn.

    Every item of a part comes once before any repeats, in an order drawn per round. A step of more items than there are
    is a round. Each draw goes to the part that is furthest behind its share of all draws so far, the first of several:
    after n draws a part of share s has s n of them, to within one for each part.

    Args:
      counts: number of items of every part, above 0.
      weights: of every part, above 0; their sum does not matter.
      size: number of draws of a step, where there are as many items.
      step: the step, from 0.
      seed: seed of the order within a part.

    >>> [len(part) for part in turns_of_parts([4, 40], [3, 1], 8, step=0, seed=0)]
    [6, 2]
    """
    whole, drawn = sum(weights), [0] * len(counts)
    size = min(size, sum(counts))
    numbers: list[list[int]] = [[] for _ in counts]
    for number in range((step + 1) * size):
        behind = [weight / whole * (number + 1) - done for weight, done in zip(weights, drawn, strict=True)]
        part = behind.index(max(behind))
        if number >= step * size:
            turn, position = divmod(drawn[part], counts[part])
            order = list(range(counts[part]))
            random.Random(f"round {seed} {turn}").shuffle(order)
            numbers[part].append(order[position])
        drawn[part] += 1
    return numbers


class KeptAnswers:
    """What a model predicts at the positions that count of every text; it is asked for a text when it is first needed.

    Kept logits would be texts x tokens x vocabulary. Hidden states are smaller by vocabulary / width, and the
    head makes the same logits of them at the cost of one product.

    The caller puts the model into the state that is to be kept around every call.
    """

    def __init__(self, split: SplitModel, encoded: Encoded, batches: Iterable[Sequence[int]]) -> None:
        """Prepare to keep what a causal model that was taken apart answers; only these batches are ever computed."""
        self._split, self._encoded = split, encoded
        self._batch_of = {number: batch for batch in batches for number in batch}
        self._states: dict[int, Tensor] = {}  # (positions that count, hidden)

    @torch.no_grad()
    def known(self, numbers: Sequence[int]) -> Known | None:
        """Return the logits of texts in the order given, each in the order of reading.

        None if the model's body does not answer with hidden states.
        """
        for number in numbers:
            if number in self._states:
                continue
            batch = self._batch_of[number]
            inputs, counts = self._encoded(batch)
            states = self._split.states(inputs)
            if states is None:
                return None
            self._states |= {each: states[row][counts[row]] for row, each in enumerate(batch)}
        of_all = torch.cat([self._states[number] for number in numbers])
        return lambda places: self._split.logits(of_all[places])


@dataclass(frozen=True)
class StepLosses:
    """The divergences on the documents and examples of one step, in nats per token."""

    text: float  # KL(base || model)
    task: float  # KL(tuned || model), of the targets


class Objective:
    """``KL(base || model)`` of a few documents plus ``weight * KL(tuned || model)`` of the targets of a few examples.

    With its gradient in what is learned. Of a mixture, each part's documents and divergence count by its weight. With
    ``replays`` the losses of the documents' own tokens and of the targets take the place of the divergences, as where
    text is replayed in training.
    """

    def __init__(
        self,
        language: OpenedModel,
        scored: OpenedModel,
        doses: DoseVector,
        texts: Sequence[Sequence[list[int]]],
        weights: Sequence[float],
        rows: Sequence[dict[str, Any]],
        seed: int,
        *,
        replays: bool = False,
    ) -> None:
        """Prepare the objective on two models with the same ``doses``, of text and of the task; they may be one.

        ``texts`` are the token ids of every document by the part of a mixture, with the ``weights`` of the parts.
        """
        self._language, self._scored, self._doses = language, scored, doses
        self._replays = replays
        self._counts, self._weights = [len(part) for part in texts], weights
        self._texts = [ids for part in texts for ids in part]
        self._rows, self._ids, self._seed = rows, [row["input_ids"] for row in rows], seed
        self._pad = PadRight(pad_token_id(scored.tokenizer))
        model: Any = language.model
        self._at_once = max(1, _LOGITS // int(model.config.get_text_config().vocab_size))
        # Masked tokens are drawn at every step, and classes have no states of their own: these are not kept.
        self._base: KeptAnswers | None = None
        if not language.is_masked and (split := SplitModel.of(language.model)) is not None:
            of_text = partial(self._inputs, step=0)
            self._base = KeptAnswers(split, of_text, self._batches(self._texts, range(len(self._texts))))
        self._tuned: KeptAnswers | None = None
        is_causal = rows and isinstance(rows[0]["labels"], list)
        if is_causal and (split := SplitModel.of(scored.model)) is not None:
            self._tuned = KeptAnswers(split, self._targets, self._batches(self._ids, range(len(rows))))

    def gradient(self, step: int, weight: float) -> StepLosses:
        """Add the gradient of a step to that of what is learned; NonFiniteError where a loss is not finite."""
        [rows] = turns_of_parts([len(self._rows)], [1], EXAMPLES, step, self._seed)
        return StepLosses(self._text_gradient(step), self._task_gradient(rows, weight))

    def _text_gradient(self, step: int) -> float:
        """Add the gradient of the divergence on text: the mean over its documents of that of their part, per token."""
        drawn = turns_of_parts(self._counts, self._weights, DOCUMENTS, step, self._seed)
        before = [sum(self._counts[:part]) for part in range(len(drawn))]
        numbers = [
            [first + position for position in positions]
            for first, positions in zip(before, drawn, strict=True)
        ]
        documents = sum(map(len, numbers))
        return sum(self._part_gradient(part, len(part) / documents, step) for part in numbers if part)

    def _part_gradient(self, numbers: Sequence[int], share: float, step: int) -> float:
        """Add the gradient of ``share`` times the divergence per token on some documents."""
        batches = list(self._batches(self._texts, numbers))
        encoded = [self._inputs(batch, step) for batch in batches]
        factor, total = share / sum(int(scored.sum()) for _, scored in encoded), 0.0
        for batch, (inputs, scored) in zip(batches, encoded, strict=True):
            if self._replays:
                ids = pad_sequence([torch.tensor(self._texts[number]) for number in batch], batch_first=True)
                labels = ids.to(scored.device).masked_fill(~scored, IGNORED)
                labels = labels if self._language.is_masked else labels_of_next(labels)
                total += add_gradient_of_labels(self._language.model, inputs, labels, factor)
            else:
                known = self._base, self._doses.off
                total += _add_gradient(self._language.model, inputs, scored, factor, batch, *known)
        return _finite(factor * total, "divergence from the base on text")

    def _task_gradient(self, numbers: Sequence[int], weight: float) -> float:
        """Add the gradient of ``weight`` times the divergence on some examples, the mean over their targets."""
        model, whole = self._scored.model, torch.ones_like(self._doses.values)
        batches = [(some, *self._batch(some)) for some in self._batches(self._ids, numbers)]
        targets, total = sum(int((labels != IGNORED).sum()) for _, _, labels in batches), 0.0
        for some, inputs, labels in batches:
            if self._replays:
                total += add_gradient_of_labels(model, inputs, labels, weight / targets)
            else:
                known = self._tuned, partial(self._doses.at, whole)
                total += _add_gradient(model, inputs, labels != IGNORED, weight / targets, some, *known)
        what = "loss" if self._replays else "divergence from the tuned model"
        return _finite(total / targets, f"{what} on training examples")

    def _batches(self, texts: Sequence[list[int]], numbers: Sequence[int]) -> Iterator[list[int]]:
        """Batch the numbers of texts of similar length, as many as memory allows, at least one."""
        batch: list[int] = []
        for number in sorted(numbers, key=lambda number: len(texts[number])):
            if batch and len(texts[number]) * (len(batch) + 1) > self._at_once:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _batch(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of some examples, and the target at every place, or ``IGNORED``: (examples, width)."""
        rows = self._pad([self._rows[number] for number in numbers])
        inputs = {name: tensor.to(self._scored.device) for name, tensor in rows.items()}
        return inputs, labels_of_next(inputs.pop("labels"))

    def _targets(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of some examples, and where they predict a target: (examples, width)."""
        inputs, labels = self._batch(numbers)
        return inputs, labels != IGNORED

    def _inputs(self, numbers: Sequence[int], step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of some texts, and where the model's predictions count: (texts, width)."""
        texts = [self._texts[number] for number in numbers]
        return read_rows(self._language, texts, f"{self._seed} {step}")


def _add_gradient(
    model: Any,
    inputs: dict[str, Tensor],
    chosen: Tensor,
    factor: float,
    batch: Sequence[int],
    kept: KeptAnswers | None,
    staying: Callable[[], AbstractContextManager[None]],
) -> float:
    """Add ``factor`` times the gradient of the divergences from a model that stays, and return their sum.

    ``staying`` puts the model into that state; what it answers to the batch may be ``kept``.
    """
    with torch.no_grad(), staying():
        known = None if kept is None else kept.known(batch)
        if known is None:
            known = model(**inputs).logits[chosen].__getitem__

    def divergence(logits: Tensor, places: slice) -> Tensor:
        with torch.no_grad(), staying():
            target = log_softmax(in_single(known(places)), dim=-1)
        return kl_div(log_softmax(logits, dim=-1), target, reduction="sum", log_target=True)

    return add_gradient_in_parts(model, inputs, chosen, divergence, factor)


def read_rows(
    opened: OpenedModel, texts: Sequence[list[int]], drawn_by: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Return texts as a model's inputs, and where its predictions count: (texts, width).

    A masked model predicts a random 15 % of the ordinary tokens; where none is drawn, all.
    """
    device, tokenizer = opened.device, opened.tokenizer
    pad, width = pad_token_id(tokenizer), max(len(ids) for ids in texts)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in texts])
    attended = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in texts])
    scored = attended.bool()
    if opened.is_masked:
        generator = torch.Generator().manual_seed(zlib.crc32(drawn_by.encode()))
        chosen = torch.rand(ids.shape, generator=generator) < _MASKED
        masks = [tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in texts]
        ordinary = ~torch.tensor([mask + [1] * (width - len(mask)) for mask in masks]).bool()
        scored = ordinary & chosen
        if not scored.any():
            scored = ordinary
        ids = ids.masked_fill(scored, tokenizer.mask_token_id)
    inputs = {"input_ids": ids.to(device), "attention_mask": attended.to(device)}
    return inputs, scored.to(device)


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the {what} is {value}, not a number; expected a model that gives finite losses; check the tuned model, "
            "or pass a lower --rate"
        )
    return value
