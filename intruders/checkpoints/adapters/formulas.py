"""The formulas by which adapters change a weight, from their stored tensors."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ..stored.checkpoint import StoredTensor
from .adapter import AdaptedWeight


def low_rank(
    name: str,
    down: StoredTensor,
    up: StoredTensor,
    scale: float,
    *,
    transposed: bool = False,
    magnitude: StoredTensor | None = None,
    by_column: bool = False,
) -> AdaptedWeight:
    """D = scale * up @ down; with a magnitude m, DoRA's W = m * (W0 + D) / ||W0 + D||.

    Args:
      name: the weight, as the adapter names it.
      down: (r, in), or (r, in, kh, kw) for a convolution.
      up: (out, r), or (out, r, 1, 1).
      scale: alpha / r, or what stands for it.
      transposed: D^T is added instead, as to an embedding's weight (tokens, dim).
      magnitude: DoRA's, one number an output (of an embedding: one a dimension).
      by_column: the magnitude has one number an input instead.
    """
    rank, columns, rows = down.shape[0], prod(down.shape[1:]), up.shape[0]

    def factors() -> LowRank:
        left = scale * widened(up.read()).reshape(rows, rank)  # (out, r)
        right = widened(down.read()).reshape(rank, columns)  # (r, in), a kernel flattened
        return LowRank(right.mT, left.mT) if transposed else LowRank(left, right)

    shape = (columns, rows) if transposed else (rows, columns)
    if magnitude is None:
        return AdaptedWeight(name, shape, rank, scale, "lora", lambda base, expert: factors())

    def dora(base: Tensor, expert: int | None) -> Tensor:
        both = factors()
        return decomposed(
            widened(base) + both.left @ both.right, magnitude.read(), by_column=transposed or by_column
        )

    return AdaptedWeight(name, shape, None, scale, "dora", dora, factor_rank=rank)


def decomposed(direction: Tensor, magnitude: Tensor, *, by_column: bool) -> Tensor:
    """m * V / ||V||, the norm over each row of V (m, n), or over each column (DoRA, Liu et al. 2024).

    The columns of a convolution are its inputs, each with the norm over its part of the kernel.
    """
    inputs = magnitude.numel() if by_column else 1
    grouped = direction.reshape(direction.shape[0], inputs, -1)  # (m, in, kh * kw), or (m, 1, n)
    norm: Tensor = torch.linalg.vector_norm(grouped, dim=(0, 2) if by_column else (1, 2), keepdim=True)
    factor: Tensor = widened(magnitude).reshape(norm.shape) / norm
    return (grouped * factor).reshape(direction.shape)


def dense(
    name: str,
    shape: tuple[int, int],
    rank: int | None,
    scale: float,
    method: str,
    delta: Callable[[], Tensor],
    magnitude: StoredTensor | None = None,
    by_column: bool = False,
) -> AdaptedWeight:
    """W = W0 + D for a D that is not stored as two factors; DoRA's W where there is a magnitude."""

    def change(base: Tensor, expert: int | None) -> Tensor:
        tuned = widened(base) + delta().reshape(shape)
        return tuned if magnitude is None else decomposed(tuned, magnitude.read(), by_column=by_column)

    return AdaptedWeight(name, shape, None, scale, method, change, factor_rank=rank)


def kronecker_delta(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """LoKr: D = scale * kron(w1, w2), a kernel's dimensions being w2's alone."""
    left = first.reshape(*first.shape, *(1,) * (second.dim() - first.dim()))
    return scale * torch.kron(left, second)


def product(a: StoredTensor, b: StoredTensor, core: StoredTensor | None = None) -> Tensor:
    """a @ b, or with a core t (r, r, kh, kw) for a convolution: sum_ij a_ip t_ij.. b_jq -> (p, q, kh, kw)."""
    if core is None:
        return widened(a.read()) @ widened(b.read())
    return torch.einsum("ij...,jq,ip->pq...", widened(core.read()), widened(b.read()), widened(a.read()))


def widened(tensor: Tensor) -> Tensor:
    """Convert to single precision or more, so that folding in the scale does not round half-precision factors."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
