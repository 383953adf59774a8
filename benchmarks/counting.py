"""Counts what an audit reads: passes over the weights, and the thin rows multiplied in them.

A *pass* reads a whole matrix once from memory; large matrices cost that, whatever the few rows multiplied in it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from intruders.linalg.operators import Dense

_PRODUCTS = ("apply", "apply_transpose")


class ProductCount:
    """Thin products with matrices, while :func:`counted_products` is open."""

    def __init__(self) -> None:
        self.elements = 0  # of the matrices multiplied, summed over the products
        self.row_elements = 0  # the same, times the rows of the thin block
        self.factorizations = 0  # Cholesky factorizations, each after a Gram matrix or a shift of one
        self._lock = threading.Lock()  # small matrices are judged by several threads

    def add_product(self, rows: Tensor, operator: Dense) -> None:
        elements = operator.shape.numel()
        with self._lock:
            self.elements += elements
            self.row_elements += elements * rows.shape[-2]

    def add_factorization(self) -> None:
        with self._lock:
            self.factorizations += 1


@contextmanager
def counted_products() -> Iterator[ProductCount]:
    """Counts every thin product of the engine's dense operators, without changing what it computes."""
    count = ProductCount()
    products = [(name, getattr(Dense, name)) for name in _PRODUCTS]
    cholesky: Callable[..., Any] = torch.linalg.cholesky_ex

    def counted(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counting(self: Dense, rows: Tensor) -> Tensor:
            count.add_product(rows, self)
            return product(self, rows)

        return counting

    def counted_cholesky(*arguments: Any, **settings: Any) -> Any:
        count.add_factorization()
        return cholesky(*arguments, **settings)

    for name, product in products:
        setattr(Dense, name, counted(product))
    torch.linalg.cholesky_ex = counted_cholesky
    try:
        yield count
    finally:
        for name, product in products:
            setattr(Dense, name, product)
        torch.linalg.cholesky_ex = cholesky
