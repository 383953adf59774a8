"""Random directions: the generator that draws them, what they give by chance, and sketches of matrices by them.

Estimates from random vectors need vectors that are independent of the matrices. Users draw noise from small seeds, and
``torch.manual_seed(0)`` gives the same numbers to a matrix of noise and to probes of that seed. So the package has a
generator of its own, the same in every call.

With Gaussian u and v, ``u^T D v`` has the mean square ``||D||_F^2``, and the product of two matrices' numbers has their
Frobenius inner product as its mean (Johnson and Lindenstrauss 1984; the random projections are of rank one here). Sums
over the matrices of a model, each with directions of its own, do the same for the whole models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import LowRank
from .operators import Update

# Any number that nobody seeds a generator with. torch takes its last 32 bits.
_OWN = 0x5B6A7988


def own_generator(seed: int = 0) -> torch.Generator:
    """Return a generator on the processor; other small seeds give other streams.

    >>> probes = torch.randn(3, generator=own_generator())
    >>> bool((probes == torch.randn(3, generator=torch.Generator().manual_seed(0))).any())
    False
    """
    return torch.Generator().manual_seed(_OWN ^ seed)


# Median of sqrt(count * d) times the smallest cosine between two random spaces of ``count`` dimensions: where
# t^2 / 2 + t = ln 2, from the smallest singular value of a square Gaussian matrix (Edelman 1988).
_SMALLEST = math.sqrt(1 + 2 * math.log(2)) - 1


def chance_max_cosine(d: int, count: int) -> float:
    """Mean of the largest ``|<x_i, y>|`` of a random unit vector y with ``count`` orthonormal x_i in d dimensions.

    ``(a - (ln ln 2c + ln 4 pi - 2 gamma) / (2 a)) / sqrt(d)`` with ``a = sqrt(2 ln 2c)``, the mean of the largest of c
    absolute values of Gaussians (Cramer 1946). Right to about 1 % from 100 dimensions on.

    >>> round(chance_max_cosine(576, 576), 3)
    0.138
    """
    if d < 2 or count < 2:
        return 1.0 if d < 2 else math.sqrt(2 / (math.pi * d))
    logarithm = math.log(2 * count)
    a = math.sqrt(2 * logarithm)
    twice_gamma = 1.1544
    largest = a - (math.log(logarithm) + math.log(4 * math.pi) - twice_gamma) / (2 * a)
    return min(1.0, largest / math.sqrt(d))


def chance_share(count: int, d: int) -> float:
    """Share of a random vector's squared length in a space of ``count`` dimensions: ``count / d``.

    It is the mean squared cosine of the angles between two random spaces, too.
    """
    return min(1.0, count / d)


def chance_angle(count: int, d: int) -> float | None:
    """Median of the largest principal angle between two random spaces of ``count`` dimensions, in degrees.

    None where the spaces fill more than a quarter of the d dimensions: the limit that this rests on is then far.
    """
    if 4 * count > d:
        return None
    return math.degrees(math.acos(min(1.0, _SMALLEST / math.sqrt(count * d))))


# Numbers of a sketch: an estimated cosine has a standard error of at most about 1 / sqrt(SIZE).
SIZE = 256


@dataclass(frozen=True)
class SketchDirections:
    """The random directions of one m x n matrix."""

    left: Tensor  # (SIZE, m)
    right: Tensor  # (SIZE, n)

    @classmethod
    def of(cls, m: int, n: int, seed: int, like: Tensor) -> SketchDirections:
        """Draw the directions of a ``seed``, in the dtype and on the device of ``like``."""
        generator = torch.Generator().manual_seed(seed)
        left, right = (torch.randn(SIZE, side, generator=generator).to(like) for side in (m, n))
        return cls(left, right)

    def sketch(self, update: Update) -> Tensor:
        """Return ``u_i^T D v_i`` in double precision: ``(SIZE)`` of one matrix, ``(batch, SIZE)`` of a batch."""
        if isinstance(update, LowRank):
            # Rows of all updates in one product: a batch of products would repeat the directions for each.
            left, right = update.left.mT @ self.left.mT, update.right @ self.right.mT
            return (left.double() * right.double()).sum(-2)
        return ((self.left @ update.matrix).double() * self.right.double()).sum(-1)


def normalized(sketches: Sequence[Tensor]) -> Tensor:
    """Sketches of models as unit rows ``(count, SIZE)``, whose products estimate cosines between the models.

    A cosine c is right to about ``(1 - c^2) / sqrt(SIZE)``, one standard error: most exact for near copies.
    One of a model without updates is zero.
    """
    return torch.nn.functional.normalize(torch.stack(list(sketches)), dim=-1, eps=math.ulp(0.0))
