"""Equal-shaped matrices before and after fine-tuning, judged together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """Equal-shaped matrices before and after fine-tuning, in single precision.

    Either ``tuned`` is given, or ``left`` and ``right`` with ``tuned = base + left @ right``.
    """

    base: Tensor  # (batch, m, n)
    tuned: Tensor | None = None  # (batch, m, n)
    left: Tensor | None = None  # (batch, m, r)
    right: Tensor | None = None  # (batch, r, n)

    def tuned_dense(self, index: int) -> Tensor:
        if self.tuned is not None:
            return self.tuned[index]
        assert self.left is not None
        assert self.right is not None
        return self.base[index].double() + self.left[index].double() @ self.right[index].double()

    def select(self, index: Tensor) -> Pair:
        return Pair(
            self.base[index],
            *(None if part is None else part[index] for part in (self.tuned, self.left, self.right)),
        )
