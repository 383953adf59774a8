"""Tuned matrices on the few directions that decide about intruders, as functions of the update's scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.krylov import BLOCK, STRIDE, Triplets, converge
from ..linalg.operators import Dense, Operator
from ..linalg.orthonormal import orthonormalize
from ..linalg.threshold import sampled_spectra, spiked_threshold
from .known import KnownBase
from .stack import Stack
from .update import measure_update

# Leading directions of the update that are followed.
_DIRECTIONS = 4
_ANGLE, _ROUNDS = 0.2, 8


@dataclass(frozen=True)
class Projection:
    """``W0 + s D`` between two orthonormal bases, the first rows of which are the base's leading singular vectors."""

    base: Tensor  # (a, c), double
    update: Tensor  # (a, c)
    shown: int  # the first so many left rows are base vectors x_i
    k: int
    epsilon: float
    predicted: float  # critical scale by the spiked threshold

    def counts(self, scales: Tensor) -> Tensor:
        """For every scale how many of the k leading left vectors resemble none of the base vectors shown; ``(g,)``."""
        core = self.base + scales[:, None, None] * self.update  # (g, a, c)
        if core.shape[-2] > core.shape[-1]:
            vectors = torch.linalg.svd(core, full_matrices=False)[0].mT
        else:
            vectors = torch.linalg.eigh(core @ core.mT)[1].mT.flip(-2)
        cosines = vectors[:, : self.k, : self.shown].abs().amax(-1)  # (g, k)
        count: Tensor = (cosines < self.epsilon).sum(-1)
        return count


def project(stack: Stack, known: KnownBase, k: int, epsilon: float) -> list[Projection]:
    """The projections of a stack of matrices, from what an audit has learnt of their bases.

    The bases hold the leading vectors of W0, the leading directions u, v of D, and W0 v, W0^T u and one more product of
    each, of which a vector that D brings into the lead is made to second order.
    """
    _, m, n = stack.base.shape
    k = min(k, m, n)
    operator = Dense(stack.base)
    leading = _leading(operator, known, min(2 * k + 4, m, n))
    update = measure_update(stack, k)
    d = min(_DIRECTIONS, update.left.shape[-2])
    u, v = update.left[:, :d], update.right[:, :d]
    forward, backward = operator.apply(v), operator.apply_transpose(u)  # W0 v, W0^T u
    room = min(m, n) - leading.left.shape[-2]
    further_left = torch.cat([u, forward, operator.apply(backward)], -2)[:, :room]
    further_right = torch.cat([v, backward, operator.apply_transpose(forward)], -2)[:, :room]
    left = _extended(leading.left, further_left)
    right = _extended(leading.right, further_right)
    base = (operator.apply_transpose(left) @ right.mT).double()
    change = (_times_update(stack, left) @ right.mT).double()
    spectra = sampled_spectra(operator, leading)
    return [
        Projection(
            base[i],
            change[i],
            leading.left.shape[-2],
            k,
            epsilon,
            spiked_threshold(spectra[i], k, epsilon) / float(update.spectral[i]),
        )
        for i in range(len(base))
    ]


def _leading(operator: Operator, known: KnownBase, count: int) -> Triplets:
    if not known.is_complete:
        return converge(known.space(operator, 4 * BLOCK * STRIDE), count, count, _ANGLE, _ROUNDS)
    left, values = known.left[:, :count], known.values[:, :count].to(operator.dtype)
    right = orthonormalize(operator.apply_transpose(left))
    exact = torch.zeros_like(values)
    return Triplets(values, left, right, exact, exact)


def _extended(rows: Tensor, further: Tensor) -> Tensor:
    return rows if further.shape[-2] == 0 else torch.cat([rows, orthonormalize(further, rows)], -2)


def _times_update(stack: Stack, rows: Tensor) -> Tensor:
    """``rows @ D``."""
    if stack.left is not None and stack.right is not None:
        return (rows @ stack.left) @ stack.right
    assert stack.tuned is not None
    return rows @ (stack.tuned - stack.base)
