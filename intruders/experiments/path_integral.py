"""The rise of a loss as an integral along the straight line from base to tuned.

    L(W0 + D) - L(W0) = sum_m int_0^1 <dL/dW_m (W0 + t D), D_m> dt

The gradient in a factor a_m on the update D_m, taken at a_m = t for all m, is the integrand. It needs no gradient of a
matrix. Gauss-Legendre quadrature with n nodes is exact for polynomials of degree 2n - 1 in t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..data.corpora import Corpus
from ..data.task import Task
from ..errors import NonFiniteError
from ..measures.intervals import RESAMPLES, Interval, expanded_percentiles
from ..measures.task_score import encoded_examples
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.tuned_model import OpenedModel
from ..system.store import Kept
from .dosed_model import DoseVector
from .objective import read_rows
from .open_dosed import encoded_texts

Floats = npt.NDArray[np.float64]
# The parts may miss the measured rise by this share of it, or by this many nats per token where it is small.
CLOSE, _SMALL = 0.02, 1e-4

MOST_NODES = 32


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
    # (1, width) each; labels are where they are predicted: (1, width), or (1,) of a class.
    rows: Sequence[Mapping[str, Tensor]] = field(repr=False)
    # By row, the weight of its corpus in a mixture, and which corpus it is of; None where all are of one.
    mixed: Sequence[tuple[float, int]] | None = None

    @property
    def tokens(self) -> list[int]:
        """The number of scored tokens of each document; 1 for an example whose label is scored."""
        return [int((row["labels"] != IGNORED).sum()) for row in self.rows]

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
        scored = labels != IGNORED
        return cross_entropy(logits[scored].float(), labels[scored], reduction="sum")


def text_measure(
    name: str, opened: OpenedModel, parts: Sequence[Corpus], max_tokens: int, seed: int
) -> DocumentMeasure:
    """Encode the documents of a corpus. A masked model scores a random 15 % of the tokens, the same for every model."""
    device = next(opened.model.parameters()).device
    rows: list[Mapping[str, Tensor]] = []
    mixed: list[tuple[float, int]] = []
    for number, part in enumerate(parts):
        for ids in encoded_texts(opened, part, max_tokens):
            inputs, scored = read_rows(opened, [ids], f"{seed} {len(rows)}")
            labels = torch.tensor([ids], device=device).masked_fill(~scored, IGNORED)
            rows.append({**inputs, "labels": labels if opened.is_masked else labels_of_next(labels)})
            mixed.append((part.weight, number))
    measure = "masked-15%-estimate" if opened.is_masked else "cross-entropy"
    return DocumentMeasure(name, "text", measure, opened.model, rows, mixed)


def task_measure(
    opened: OpenedModel, task: Task, labels: Sequence[str], max_examples: int
) -> DocumentMeasure:
    """Encode validation examples of a task with their targets; those too long for the model are skipped."""
    device = next(opened.model.parameters()).device
    encoded = encoded_examples(opened, task, task.validation[:max_examples], labels)
    pad = PadRight(pad_token_id(opened.tokenizer))
    rows = [{key: tensor.to(device) for key, tensor in pad([row]).items()} for row in encoded]
    measure = "classification" if task.kind == "classification" else "cross-entropy"
    if task.kind != "classification":
        rows = [{**row, "labels": labels_of_next(row["labels"])} for row in rows]
    return DocumentMeasure(task.name, "task", measure, opened.model, rows)


@dataclass(frozen=True)
class PathIntegral:
    """The parts of every document's rise: the sum over a document's tokens, in nats, times the document's weight."""

    base: Floats  # (documents,), of the base's losses
    tuned: Floats  # (documents,)
    tokens: npt.NDArray[np.int64]  # (documents,)
    weights: Floats  # (documents,)
    parts: Floats  # (documents, factors)
    added: Floats  # (documents, further factors): of what lies inside the updates
    nodes: int
    seed: int  # of the resamples of documents

    @property
    def total(self) -> float:
        """The sum of the parts, in nats per token."""
        return float(self.parts.sum() / self.tokens.sum())

    @cached_property
    def _drawn(self) -> Floats:
        """How often each document is drawn, (resamples, documents): the same for all parts."""
        count = len(self.tokens)
        drawn = np.random.default_rng(self.seed).multinomial(count, [1 / count] * count, size=RESAMPLES)
        return drawn.astype(np.float64)

    def interval_of(self, sums: Floats) -> Interval:
        """Return the interval of sums over documents (documents,), per token."""
        estimate = float(sums.sum() / self.tokens.sum())
        tokens: Floats = self._drawn @ (self.weights * self.tokens)
        return expanded_percentiles(estimate, self._drawn @ sums / tokens, len(sums))

    def interval(self, numbers: Sequence[int]) -> Interval:
        return self.interval_of(self.parts[:, list(numbers)].sum(axis=1))

    def each(self, numbers: Sequence[int]) -> list[float]:
        per_token: list[float] = (self.parts[:, list(numbers)].sum(axis=0) / self.tokens.sum()).tolist()
        return per_token

    def inside(self, number: int) -> float:
        return float(self.added[:, number].sum() / self.tokens.sum())


@dataclass(frozen=True)
class DosePath:
    """A model on the line from base to tuned, with a factor on every update."""

    doses: DoseVector  # of all updates
    inside: DoseVector  # zeros: what they scale is part of the updates already
    of_inside: str  # digest of what they scale
    kept: Kept
    seed: int
    progress: Callable[[str, int, int], None]

    def integral(self, measure: DocumentMeasure, nodes: int) -> PathIntegral:
        """Split the rise into parts, doubling the nodes as long as the parts miss the measured rise."""
        tokens, weights = np.array(measure.tokens, dtype=np.int64), np.array(measure.weights)
        base, tuned = self.losses(measure, 0.0), self.losses(measure, 1.0)
        while True:
            points, shares = np.polynomial.legendre.leggauss(nodes)
            both = sum(
                share / 2 * self._gradients(measure, float(1 + point) / 2, number, nodes)
                for number, (point, share) in enumerate(zip(points, shares, strict=True))
            )
            parts, added = np.split(weights[:, None] * both, [len(self.doses.values)], axis=1)
            integral = PathIntegral(
                weights * base, weights * tuned, tokens, weights, parts, added, nodes, self.seed
            )
            rise = float((integral.tuned - integral.base).sum() / tokens.sum())
            is_close = abs(integral.total - rise) <= max(CLOSE * abs(rise), _SMALL)
            if is_close or 2 * nodes > MOST_NODES:
                return integral
            nodes *= 2

    def losses(self, measure: DocumentMeasure, at: float, without: Tensor | None = None) -> Floats:
        """Return the loss of every document with one dose for all updates, except those numbered in ``without``."""
        numbers = [] if without is None else without.tolist()
        unit = {"measure": measure.name, "at": at, "without": numbers}

        def measured() -> Floats:
            values = torch.full_like(self.doses.values, at)
            if without is not None:
                values[without] = 0.0
            losses = np.zeros(len(measure.rows))
            with torch.no_grad(), self.doses.at(values):
                for index in range(len(measure.rows)):
                    self.progress(f"measure {measure.name}", index, len(measure.rows))
                    losses[index] = _finite(measure.loss(index), measure)
            return losses

        return np.array(self.kept.once(unit, Any, measured), dtype=np.float64)

    def _gradients(self, measure: DocumentMeasure, at: float, number: int, nodes: int) -> Floats:
        """Return dL_i/da of every document at one node, ``(documents, factors + further factors)``."""
        unit = {"measure": measure.name, "gradient at": at, "inside": self.of_inside}
        count = len(measure.rows)

        def measured() -> Floats:
            gradients = np.zeros((count, len(self.doses.values) + len(self.inside.values)))
            values = torch.full_like(self.doses.values, at).requires_grad_()
            inside = torch.zeros_like(self.inside.values).requires_grad_()
            with self.doses.at(values), self.inside.at(inside):
                for index in range(count):
                    self.progress(f"gradients of {measure.name}", number * count + index, nodes * count)
                    loss = measure.loss(index)
                    _finite(loss, measure)
                    row = torch.autograd.grad(loss, [values, inside], materialize_grads=True)
                    gradients[index] = torch.cat(row).double().cpu().numpy()
            if not np.isfinite(gradients).all():
                raise NonFiniteError(
                    f"the gradient of the loss on {measure.name!r} is NaN or infinite; expected finite numbers; check "
                    "the tuned model"
                )
            return gradients

        return np.array(self.kept.once(unit, Any, measured), dtype=np.float64).reshape(count, -1)


def _finite(loss: Tensor, measure: DocumentMeasure) -> float:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise NonFiniteError(
            f"the loss on {measure.name!r} is {value}; expected a finite number; check the tuned model and the text"
        )
    return value
