"""Batches of values: what is nested in them follows, and a repeated matrix costs no memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intruders.linalg.batched import Batched


@dataclass(frozen=True)
class Inner(Batched):
    numbers: Tensor  # (batch)


@dataclass(frozen=True)
class Outer(Batched):
    rows: Tensor  # (batch, 2, 3)
    inner: Inner


def test_a_batch_of_one_matrix_is_repeated_with_what_is_nested_in_it_and_not_copied() -> None:
    single = Outer(torch.randn(1, 2, 3), Inner(torch.tensor([7.0])))
    repeated = single.repeated(4)
    assert repeated.rows.tolist() == single.rows.tolist() * 4
    assert repeated.inner.numbers.tolist() == [7.0] * 4
    assert repeated.rows.data_ptr() == single.rows.data_ptr()
    assert repeated.rows.stride(0) == 0
    assert repeated.inner.numbers.stride() == (0,)
