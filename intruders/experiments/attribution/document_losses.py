"""The loss of single documents and examples as tensors that a gradient can be taken of."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...data.corpora import Corpus
from ...data.task import Task
from ...models.encoding import IGNORED, PadRight, pad_token_id
from ...models.tuned_model import OpenedModel
from ..doses.encoded import encoded_examples, encoded_texts

# Share of the tokens that is masked in one pass of a masked language model.
_MASKED = 0.15


@dataclass(frozen=True)
class DocumentMeasure:
    """Documents of one corpus, or examples of one task, as a model takes them.

    The loss is ``L = sum_i w_i s_i / sum_i t_i`` over the documents i, with the sum s_i over the t_i tokens of each.
    The weights w_i are 1, except of a mixture, whose loss is the weighted mean of those of its parts.
    """

    name: str
    kind: Literal["text", "task"]
    measure: str  # "cross-entropy", "masked-15%-estimate" or "classification"
    model: Any = field(repr=False)
    rows: Sequence[Mapping[str, Tensor]] = field(repr=False)  # (1, width) each, with the labels
    # By row, the weight of its corpus in a mixture, and which corpus it is of; None where all are of one.
    mixed: Sequence[tuple[float, int]] | None = None

    @property
    def tokens(self) -> list[int]:
        """The number of scored tokens of each document; 1 for an example whose label is scored."""
        return [self._scored(row) for row in self.rows]

    @property
    def weights(self) -> list[float]:
        """The weight w_i of each document. They leave the number of tokens as it is: ``sum_i w_i t_i = sum_i t_i``."""
        tokens = self.tokens
        if self.mixed is None:
            return [1.0] * len(tokens)
        of_part: dict[int, int] = {}
        for (_, part), count in zip(self.mixed, tokens, strict=True):
            of_part[part] = of_part.get(part, 0) + count
        in_all = sum({part: weight for weight, part in self.mixed}.values())
        return [weight / in_all * sum(tokens) / of_part[part] for weight, part in self.mixed]

    def loss(self, index: int) -> Tensor:
        """Return the sum over the scored tokens of one document, in nats, with its graph."""
        row = dict(self.rows[index])
        labels = row.pop("labels")
        logits = self.model(**row).logits
        if self.measure == "classification":
            return cross_entropy(logits.float(), labels, reduction="sum")
        if self.measure == "cross-entropy":
            logits, labels = logits[:, :-1], labels[:, 1:]
        scored = labels != IGNORED
        return cross_entropy(logits[scored].float(), labels[scored], reduction="sum")

    def _scored(self, row: Mapping[str, Tensor]) -> int:
        labels = row["labels"]
        if self.measure == "classification":
            return 1
        shifted = labels[:, 1:] if self.measure == "cross-entropy" else labels
        return int((shifted != IGNORED).sum())


def text_measure(
    name: str, opened: OpenedModel, parts: Sequence[Corpus], max_tokens: int, seed: int
) -> DocumentMeasure:
    """Encode the documents of a corpus. A masked model scores a random 15 % of the tokens, the same for every model.

    Raises:
      SettingError: no document of a part has two tokens.
    """
    device = next(opened.model.parameters()).device
    of_parts = [encoded_texts(opened, part, max_tokens) for part in parts]
    documents = [ids for of_part in of_parts for ids in of_part]
    mixed = [
        (part.weight, number)
        for number, (part, of_part) in enumerate(zip(parts, of_parts, strict=True))
        for _ in of_part
    ]
    if not opened.is_masked:
        rows = []
        for ids in documents:
            tokens = torch.tensor([ids], device=device)
            rows.append({"input_ids": tokens, "labels": tokens})
        return DocumentMeasure(name, "text", "cross-entropy", opened.model, rows, mixed)
    rows = [_masked(opened.tokenizer, ids, f"{seed} {number}") for number, ids in enumerate(documents)]
    placed = [{key: tensor.to(device) for key, tensor in row.items()} for row in rows]
    return DocumentMeasure(name, "text", "masked-15%-estimate", opened.model, placed, mixed)


def task_measure(
    opened: OpenedModel, task: Task, labels: Sequence[str], max_examples: int
) -> DocumentMeasure:
    """Encode validation examples of a task with their targets; those too long for the model are skipped."""
    device = next(opened.model.parameters()).device
    encoded = encoded_examples(opened, task, task.validation[:max_examples], labels)
    pad = PadRight(pad_token_id(opened.tokenizer))
    rows = [{key: tensor.to(device) for key, tensor in pad([row]).items()} for row in encoded]
    measure = "classification" if task.kind == "classification" else "cross-entropy"
    return DocumentMeasure(task.name, "task", measure, opened.model, rows)


def _masked(tokenizer: Any, ids: list[int], drawn_by: str) -> dict[str, Tensor]:
    special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    plain = ~torch.tensor([special]).bool()
    generator = torch.Generator().manual_seed(zlib.crc32(drawn_by.encode()))
    chosen = plain & (torch.rand(1, len(ids), generator=generator) < _MASKED)
    if not chosen.any():
        chosen = plain
    tokens = torch.tensor([ids])
    return {
        "input_ids": tokens.masked_fill(chosen, tokenizer.mask_token_id),
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens.masked_fill(~chosen, IGNORED),
    }
