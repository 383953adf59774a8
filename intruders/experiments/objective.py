"""The objective of a healing: the divergence from the base on text, and from the tuned model on examples of the task.

On examples the tuned model's own predictions are what to keep (distillation; Hinton, Vinyals and Dean 2015), not their
labels: a few dozen labels could be learned further than the tuned model has, at the cost of all other examples.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.utils.rnn import pad_sequence

from ..errors import NonFiniteError
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.token_losses import target_logits
from ..models.tuned_model import OpenedModel
from .dosed_model import DoseVector
from .experiment_settings import DOCUMENTS, EXAMPLES

# Bounds the logits and the activations of a part of a step in memory: tokens x vocabulary.
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
            numbers[part].append(_position(counts[part], drawn[part], seed))
        drawn[part] += 1
    return numbers


def _position(count: int, number: int, seed: int) -> int:
    """Return the position of a draw by its number, from 0."""
    turn, position = divmod(number, count)
    order = list(range(count))
    random.Random(f"round {seed} {turn}").shuffle(order)
    return order[position]


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
        self._texts, self._weights = texts, weights
        self._rows, self._seed = rows, seed
        self._pad = PadRight(pad_token_id(scored.tokenizer))
        model: Any = language.model
        self._at_once = max(1, _LOGITS // int(model.config.get_text_config().vocab_size))

    def gradient(self, step: int, weight: float) -> StepLosses:
        """Add the gradient of a step to that of what is learned; NonFiniteError where a loss is not finite."""
        [numbers] = turns_of_parts([len(self._rows)], [1], EXAMPLES, step, self._seed)
        rows = [self._rows[number] for number in numbers]
        return StepLosses(self._text_gradient(step), self._task_gradient(rows, weight))

    def _text_gradient(self, step: int) -> float:
        """Add the gradient of the divergence on text: the mean over its documents of that of their part, per token."""
        counts = [len(part) for part in self._texts]
        drawn = turns_of_parts(counts, self._weights, DOCUMENTS, step, self._seed)
        documents = sum(map(len, drawn))
        total = 0.0
        for part, numbers in zip(self._texts, drawn, strict=True):
            if numbers:
                texts = [part[number] for number in numbers]
                total += self._part_gradient(texts, len(texts) / documents, step)
        return total

    def _part_gradient(self, texts: Sequence[list[int]], share: float, step: int) -> float:
        """Add the gradient of ``share`` times the divergence per token on some documents."""
        model: Any = self._language.model
        batches = [[texts[number] for number in batch] for batch in self._batches(texts)]
        encoded = [read_rows(self._language, batch, f"{self._seed} {step}") for batch in batches]
        tokens = sum(int(scored.sum()) for _, scored in encoded) / share
        total = 0.0
        for batch, (inputs, scored) in zip(batches, encoded, strict=True):
            if self._replays:
                loss = self._loss_of_tokens(batch, inputs, scored) / tokens
            else:
                with torch.no_grad(), self._doses.off():
                    base = model(**inputs).logits[scored].float()
                loss = _divergence(base, model(**inputs).logits[scored].float()) / tokens
            total += _finite(loss, "divergence from the base on text")
            loss.backward()  # type: ignore[no-untyped-call]
        return total

    def _loss_of_tokens(
        self, batch: Sequence[list[int]], inputs: dict[str, Tensor], scored: Tensor
    ) -> Tensor:
        """Return the summed loss of the documents' own tokens."""
        ids = pad_sequence([torch.tensor(text) for text in batch], batch_first=True)
        wanted = ids.to(scored.device)
        if not self._language.is_masked:
            wanted = wanted.roll(-1, dims=1)
            scored = scored & inputs["attention_mask"].roll(-1, dims=1).bool()
            scored[:, -1] = False
        logits = self._language.model(**inputs).logits[scored].float()
        return cross_entropy(logits, wanted[scored], reduction="sum")

    def _task_gradient(self, rows: Sequence[dict[str, Any]], weight: float) -> float:
        """Add the gradient of ``weight`` times the divergence on some examples, the mean over their targets."""
        model = self._scored.model
        what = "loss" if self._replays else "divergence from the tuned model"
        batches = [
            {
                name: tensor.to(self._scored.device)
                for name, tensor in self._pad([rows[n] for n in some]).items()
            }
            for some in self._batches([row["input_ids"] for row in rows])
        ]
        targets = sum(int((labels_of_next(batch["labels"]) != IGNORED).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            if self._replays:
                loss = cross_entropy(*target_logits(model, batch), reduction="sum") / targets
            else:
                with torch.no_grad(), self._doses.at(torch.ones_like(self._doses.values)):
                    tuned, _ = target_logits(model, batch)
                loss = _divergence(tuned, target_logits(model, batch)[0]) / targets
            total += _finite(loss, f"{what} on training examples")
            (weight * loss).backward()  # type: ignore[no-untyped-call]
        return total

    def _batches(self, texts: Sequence[list[int]]) -> Iterator[list[int]]:
        """Batch the numbers of texts of similar length, as many as memory allows, at least one."""
        batch: list[int] = []
        for number in sorted(range(len(texts)), key=lambda number: len(texts[number])):
            if batch and len(texts[number]) * (len(batch) + 1) > self._at_once:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch


def read_rows(
    opened: OpenedModel, texts: Sequence[list[int]], drawn_by: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Return texts as a model's inputs, and where its predictions count: (texts, width).

    A masked model predicts a random 15 % of the ordinary tokens; where none is drawn, all.
    """
    device, tokenizer = next(opened.model.parameters()).device, opened.tokenizer
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


def _divergence(known: Tensor, logits: Tensor) -> Tensor:
    """Return the sum of ``KL(known || model)`` over positions; both are logits (positions, classes or tokens)."""
    known, predicted = log_softmax(known, dim=-1), log_softmax(logits, dim=-1)
    return kl_div(predicted, known, reduction="sum", log_target=True)


def _finite(loss: Tensor, what: str) -> float:
    value = float(loss.detach())
    if not torch.isfinite(loss):
        raise NonFiniteError(
            f"the {what} is {value}, not a number; expected a model that gives finite losses; check the tuned model, "
            "or pass a lower --rate"
        )
    return value
