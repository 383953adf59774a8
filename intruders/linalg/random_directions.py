"""Random directions: the generator that draws them, and sketches of matrices by them.

Estimates need vectors that are independent of the matrices, and ``torch.manual_seed(0)`` gives the same numbers to a
user's matrix of noise and to probes of that seed. So the package has a generator of its own. With Gaussian u and v,
``u^T D v`` has the mean square ``||D||_F^2``, and the product of two matrices' numbers has their Frobenius inner
product as its mean (Johnson and Lindenstrauss 1984; the random projections are of rank one here). Sums over the
matrices of a model, each with directions of its own, do the same for the whole models.
"""

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


# Numbers of a sketch: an estimated cosine has a standard error of at most about 1 / sqrt(SIZE).
SIZE = 256


@dataclass(frozen=True)
class SketchDirections:
    """The random directions of one m x n matrix."""

    left: Tensor  # (SIZE, m)
    right: Tensor  # (SIZE, n)

    @classmethod
    def of(cls, m: int, n: int, seed: int, like: Tensor) -> "SketchDirections":
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
