"""What pairing a base with a tuned model gives: matrices to load one by one, and what was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not audited, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LoadedPair:
    """One matrix before and after fine-tuning, in the dtypes of the files.

    Either ``tuned`` is given (dense, same shape as ``base``), or ``left`` and ``right`` are, and the tuned
    matrix is ``base + left @ right`` with every scale folded into the factors.
    """

    base: Tensor  # (m, n)
    tuned: Tensor | None = None  # (m, n)
    left: Tensor | None = None  # (m, r)
    right: Tensor | None = None  # (r, n)


@dataclass(frozen=True)
class PairedMatrix:
    """A matrix that both sides have; ``load`` reads it, and answers None when the two are equal."""

    name: str
    shape: tuple[int, int]
    rank: int | None  # of the update, when it is stored as factors
    load: Callable[[], LoadedPair | None] = field(repr=False)


@dataclass(frozen=True)
class Pairing:
    """What is to be audited, in the base's order, and what is left out."""

    base_source: str
    tuned_source: str
    tuned_kind: str  # "checkpoint", "adapter", "module", "state dict"
    pairs: list[PairedMatrix]
    skipped: list[Skipped]
    matched: list[str] = field(default_factory=list)  # what was matched other than by equal names, in words
