"""Values about the matrices of a batch, of which some can be taken out and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor


class Batched:
    """A dataclass whose fields are tensors, or values of this kind, with the matrices as their first dimension."""

    def select(self, index: Tensor) -> Self:
        """Return the values of the matrices at ``index`` (a vector of integers)."""
        return type(self)(**{name: _selected(value, index) for name, value in _fields(self).items()})

    def repeated(self, count: int) -> Self:
        """Repeat a batch of one matrix ``count`` times, without copies."""
        return type(self)(**{name: _repeated(value, count) for name, value in _fields(self).items()})

    @classmethod
    def together(cls, groups: Sequence[Self]) -> Self:
        """Join the matrices of groups, whose values have equal shapes but for their numbers."""
        return cls(**{name: _joined([getattr(group, name) for group in groups]) for name in _names(cls)})

    def with_rows(self, index: Tensor, other: Self) -> Self:
        """Replace the values of the matrices at ``index`` by those of ``other``."""
        others = _fields(other)
        return type(self)(
            **{name: _replaced(value, index, others[name]) for name, value in _fields(self).items()}
        )


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    return torch.cat(list(values)) if isinstance(first, Tensor) else type(first).together(values)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _names(value)}


def _selected(value: Any, index: Tensor) -> Any:
    return value[index] if isinstance(value, Tensor) else value.select(index)


def _repeated(value: Any, count: int) -> Any:
    return value.expand(count, *value.shape[1:]) if isinstance(value, Tensor) else value.repeated(count)


def _replaced(value: Any, index: Tensor, other: Any) -> Any:
    return value.index_copy(0, index, other) if isinstance(value, Tensor) else value.with_rows(index, other)
