"""The rise of a loss as an integral along the straight line from base to tuned.

    L(W0 + D) - L(W0) = sum_m int_0^1 <dL/dW_m (W0 + t D), D_m> dt

The gradient in a factor a_m on the update D_m, taken at a_m = t for all m, is the integrand. It needs no gradient of a
matrix. Gauss-Legendre quadrature with n nodes is exact for polynomials of degree 2n - 1 in t.
"""

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
from .attribution import MeasuredRise
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
    # Of a mixture: by row the part that it is of, and by part its weight.
    parts: Sequence[int] | None = None
    part_weights: Sequence[float] = (1.0,)

    @cached_property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The number of scored tokens of each document; 1 for an example whose label is scored."""
        return np.array([int((row["labels"] != IGNORED).sum()) for row in self.rows], dtype=np.int64)

    @cached_property
    def weights(self) -> Floats:
        """The weight w_i of each document. They leave the number of tokens as it is: ``sum_i w_i t_i = sum_i t_i``."""
        tokens = self.tokens
        parts = np.zeros(len(tokens), dtype=int) if self.parts is None else np.array(self.parts)
        shares = np.array(self.part_weights) / sum(self.part_weights)
        return np.asarray(tokens.sum() * (shares / np.bincount(parts, tokens))[parts])

    def loss(self, index: int) -> Tensor:
        """Return the sum over the scored tokens of one document, in nats, with its graph."""
        row = dict(self.rows[index])
        labels = row.pop("labels")
        logits = self.model(**row).logits
        scored = labels != IGNORED
        loss = cross_entropy(logits[scored].float(), labels[scored], reduction="sum")
        if not loss.isfinite():
            raise NonFiniteError(
                f"the loss on {self.name!r} is {loss.item()}; expected a finite number; check the tuned model and the "
                "text"
            )
        return loss


def text_measure(
    name: str, opened: OpenedModel, parts: Sequence[Corpus], max_tokens: int, seed: int
) -> DocumentMeasure:
    """Encode the documents of a corpus. A masked model scores a random 15 % of the tokens, the same for every model."""
    rows: list[Mapping[str, Tensor]] = []
    part_of: list[int] = []
    for number, part in enumerate(parts):
        for ids in encoded_texts(opened, part, max_tokens):
            inputs, scored = read_rows(opened, [ids], f"{seed} {len(rows)}")
            labels = torch.tensor([ids], device=opened.device).masked_fill(~scored, IGNORED)
            rows.append({**inputs, "labels": labels if opened.is_masked else labels_of_next(labels)})
            part_of.append(number)
    measure = "masked-15%-estimate" if opened.is_masked else "cross-entropy"
    weights = [part.weight for part in parts]
    return DocumentMeasure(name, "text", measure, opened.model, rows, part_of, weights)


def task_measure(name: str, opened: OpenedModel, task: Task, max_examples: int) -> DocumentMeasure:
    """Encode validation examples of a task with their targets; those too long for the model are skipped."""
    encoded = encoded_examples(opened, task, task.validation[:max_examples])
    pad = PadRight(pad_token_id(opened.tokenizer))
    rows = [{key: tensor.to(opened.device) for key, tensor in pad([row]).items()} for row in encoded]
    rows = [{**row, "labels": labels_of_next(row["labels"])} for row in rows]  # a class stays as it is
    measure = "classification" if task.kind == "classification" else "cross-entropy"
    return DocumentMeasure(name, "task", measure, opened.model, rows)


@dataclass(frozen=True)
class PathIntegral:
    """The parts of every document's rise: the sum over a document's tokens, in nats, times the document's weight."""

    measure: DocumentMeasure
    base: Floats  # (documents,), of the base's losses
    tuned: Floats  # (documents,)
    parts: Floats  # (documents, factors)
    added: Floats  # (documents, further factors): of what lies inside the updates
    nodes: int
    seed: int  # of the resamples of documents

    @cached_property
    def _drawn(self) -> Floats:
        """How often each document is drawn, (resamples, documents): the same for all parts."""
        count = len(self.base)
        drawn = np.random.default_rng(self.seed).multinomial(count, [1 / count] * count, size=RESAMPLES)
        return drawn.astype(np.float64)

    def per_token(self, sums: Floats) -> float:
        return float(sums.sum() / self.measure.tokens.sum())

    def rise(self) -> MeasuredRise:
        measure = self.measure
        return MeasuredRise(
            name=measure.name,
            kind=measure.kind,
            measure=measure.measure,
            documents=len(self.base),
            tokens=int(measure.tokens.sum()),
            base_loss=self.per_token(self.base),
            tuned_loss=self.per_token(self.tuned),
            rise=self._interval_of(self.tuned - self.base),
            total=self.per_token(self.parts),
            nodes=self.nodes,
        )

    def _interval_of(self, sums: Floats) -> Interval:
        """Return the interval of sums over documents (documents,), per token."""
        tokens: Floats = self._drawn @ (self.measure.weights * self.measure.tokens)
        return expanded_percentiles(self.per_token(sums), self._drawn @ sums / tokens, len(sums))

    def interval(self, numbers: Sequence[int]) -> Interval:
        return self._interval_of(self.parts[:, list(numbers)].sum(axis=1))

    def each(self, numbers: Sequence[int]) -> list[float]:
        return [self.per_token(self.parts[:, number]) for number in numbers]

    def inside(self, number: int) -> float:
        return self.per_token(self.added[:, number])


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
        weights = measure.weights
        base, tuned = (weights * self.losses(measure, at) for at in (0.0, 1.0))
        while True:
            points, shares = np.polynomial.legendre.leggauss(nodes)
            both = sum(
                share / 2 * self._gradients(measure, float(1 + point) / 2, number, nodes)
                for number, (point, share) in enumerate(zip(points, shares, strict=True))
            )
            parts, added = np.split(weights[:, None] * both, [len(self.doses.values)], axis=1)
            integral = PathIntegral(measure, base, tuned, parts, added, nodes, self.seed)
            rise, total = integral.per_token(tuned - base), integral.per_token(parts)
            if abs(total - rise) <= max(CLOSE * abs(rise), _SMALL) or 2 * nodes > MOST_NODES:
                return integral
            nodes *= 2

    def losses(self, measure: DocumentMeasure, at: float, without: Sequence[int] = ()) -> Floats:
        """Return the loss of every document with one dose for all updates, except those numbered in ``without``."""
        unit = {"measure": measure.name, "at": at, "without": list(without)}

        def measured() -> Floats:
            values = torch.full_like(self.doses.values, at)
            values[list(without)] = 0.0
            losses = np.zeros(len(measure.rows))
            with torch.no_grad(), self.doses.at(values):
                for index in range(len(measure.rows)):
                    self.progress(f"measure {measure.name}", index, len(measure.rows))
                    losses[index] = measure.loss(index).item()
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
                    row = torch.autograd.grad(loss, [values, inside], materialize_grads=True)
                    gradients[index] = torch.cat(row).double().cpu().numpy()
            if not np.isfinite(gradients).all():
                raise NonFiniteError(
                    f"the gradient of the loss on {measure.name!r} is NaN or infinite; expected finite numbers; check "
                    "the tuned model"
                )
            return gradients

        return np.array(self.kept.once(unit, Any, measured), dtype=np.float64).reshape(count, -1)
