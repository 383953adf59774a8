"""What an adapter does to the weights of its base, whatever family it is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A low-rank update D = left @ right, every scale folded in."""

    left: Tensor  # (m, r)
    right: Tensor  # (r, n)


@dataclass(frozen=True)
class WeightUpdate:
    """What an adapter does to one weight of the base.

    ``change`` takes the base's weight (m, n), output side first, and gives the update as factors or, where
    it is not of low rank, the tuned weight (m, n).
    """

    name: str  # the weight, as the adapter names it
    shape: tuple[int, int]  # (m, n)
    rank: int | None  # of the update, when it comes as factors
    scale: float | None  # that PEFT puts on B A; None where there is none
    method: str  # "lora", "dora", "replaced", ...
    change: Callable[[Tensor], Factors | Tensor] = field(repr=False)


@dataclass(frozen=True)
class Adapter:
    """An adapter: updates to weights of a base that is elsewhere."""

    source: str
    peft_type: str
    base_source: str | None  # as the adapter names its base
    updates: list[WeightUpdate] = field(repr=False)
    ignored: list[tuple[str, str]] = field(
        default_factory=list, repr=False
    )  # (tensor, why it is not a matrix)
    kind: str = "adapter"
