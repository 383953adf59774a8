"""The rise of a loss as an integral along the straight line from base to tuned.

    L(W0 + D) - L(W0) = sum_m int_0^1 <dL/dW_m (W0 + t D), D_m> dt

The gradient in a factor a_m on the update D_m, taken at a_m = t for all m, is the integrand. It needs no gradient of a
matrix. Gauss-Legendre quadrature with n nodes is exact for polynomials of degree 2n - 1 in t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import NonFiniteError
from ...measures.kept_outcomes import KeptOutcomes
from ..doses.dosed_model import DoseVector
from .document_losses import DocumentMeasure

Floats = npt.NDArray[np.float64]

# The parts may miss the measured rise by this share of it, or by this many nats per token where it is small.
CLOSE, _SMALL = 0.02, 1e-4
MOST_NODES = 32


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

    @property
    def rise(self) -> float:
        """Measured, in nats per token."""
        return float((self.tuned - self.base).sum() / self.tokens.sum())

    @property
    def total(self) -> float:
        """The sum of the parts, in nats per token."""
        return float(self.parts.sum() / self.tokens.sum())

    @property
    def is_close(self) -> bool:
        return abs(self.total - self.rise) <= max(CLOSE * abs(self.rise), _SMALL)


@dataclass(frozen=True)
class DosePath:
    """A model on the line from base to tuned, with a factor on every update."""

    doses: DoseVector  # of all updates
    inside: DoseVector  # zeros: what they scale is part of the updates already
    of_inside: str  # digest of what they scale
    kept: KeptOutcomes
    progress: Callable[[str, int, int], None]

    def integral(self, measure: DocumentMeasure, nodes: int) -> PathIntegral:
        """Split the rise into parts, doubling the nodes as long as the parts miss the measured rise.

        Raises:
          NonFiniteError: a loss or its gradient is NaN or infinite.
        """
        tokens, weights = np.array(measure.tokens, dtype=np.int64), np.array(measure.weights)
        base, tuned = self.losses(measure, 0.0), self.losses(measure, 1.0)
        while True:
            parts, added = self._integrated(measure, nodes)
            integral = PathIntegral(
                base=weights * base,
                tuned=weights * tuned,
                tokens=tokens,
                weights=weights,
                parts=weights[:, None] * parts,
                added=weights[:, None] * added,
                nodes=nodes,
            )
            if integral.is_close or 2 * nodes > MOST_NODES:
                return integral
            nodes *= 2

    def losses(self, measure: DocumentMeasure, at: float, without: Tensor | None = None) -> Floats:
        """Return the loss of every document with one dose for all updates, except those numbered in ``without``."""
        numbers = [] if without is None else without.tolist()
        unit = {"measure": measure.name, "at": at, "without": numbers}
        kept = self.kept.get_plain(unit)
        if kept is not None:
            return np.array(kept, dtype=np.float64)
        values = torch.full_like(self.doses.values, at)
        if without is not None:
            values[without] = 0.0
        losses = np.zeros(len(measure.rows))
        with torch.no_grad(), self._at(values):
            for index in range(len(measure.rows)):
                self.progress(f"measure {measure.name}", index, len(measure.rows))
                losses[index] = _finite(measure.loss(index), measure)
        self.kept.put_plain(unit, losses.tolist())
        return losses

    def _integrated(self, measure: DocumentMeasure, nodes: int) -> tuple[Floats, Floats]:
        points, weights = np.polynomial.legendre.leggauss(nodes)
        parts = np.zeros((len(measure.rows), len(self.doses.values)))
        added = np.zeros((len(measure.rows), len(self.inside.values)))
        for number, (point, weight) in enumerate(zip(points, weights, strict=True)):
            at = float(1 + point) / 2
            gradients = self._gradients(measure, at, number, nodes)
            parts += weight / 2 * gradients[:, : parts.shape[1]]
            added += weight / 2 * gradients[:, parts.shape[1] :]
        return parts, added

    def _gradients(self, measure: DocumentMeasure, at: float, number: int, nodes: int) -> Floats:
        """Return dL_i/da of every document at one node, ``(documents, factors + further factors)``."""
        unit = {"measure": measure.name, "gradient at": at, "inside": self.of_inside}
        kept = self.kept.get_plain(unit)
        if kept is not None:
            return np.array(kept, dtype=np.float64).reshape(len(measure.rows), -1)
        count = len(measure.rows)
        gradients = np.zeros((count, len(self.doses.values) + len(self.inside.values)))
        values = torch.full_like(self.doses.values, at).requires_grad_()
        inside = torch.zeros_like(self.inside.values).requires_grad_()
        with self._at(values, inside):
            for index in range(count):
                self.progress(f"gradients of {measure.name}", number * count + index, nodes * count)
                loss = measure.loss(index)
                _finite(loss, measure)
                both = torch.autograd.grad(loss, [values, inside], allow_unused=True)
                row = [
                    torch.zeros_like(of) if gradient is None else gradient
                    for gradient, of in zip(both, (values, inside), strict=True)
                ]
                gradients[index] = torch.cat(row).double().cpu().numpy()
        if not np.isfinite(gradients).all():
            raise NonFiniteError(
                f"the gradient of the loss on {measure.name!r} is NaN or infinite; expected finite numbers; check the "
                "tuned model"
            )
        self.kept.put_plain(unit, gradients.tolist())
        return gradients

    @contextmanager
    def _at(self, values: Tensor, inside: Tensor | None = None) -> Iterator[None]:
        own = self.doses.values, self.inside.values
        self.doses.values = values
        self.inside.values = torch.zeros_like(self.inside.values) if inside is None else inside
        try:
            yield
        finally:
            self.doses.values, self.inside.values = own


def _finite(loss: Tensor, measure: DocumentMeasure) -> float:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise NonFiniteError(
            f"the loss on {measure.name!r} is {value}; expected a finite number; check the tuned model and the text"
        )
    return value
