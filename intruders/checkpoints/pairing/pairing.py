"""What pairing a base with a tuned model gives: matrices to load one by one, and what was left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what reads a saved result, such as a model card, needs the records here and no torch
    import torch
    from torch import Tensor

    from ...linalg.pair import Pair
    from ..opening.open import Opened
    from ..stored.checkpoint import Checkpoint


class SkipKind(StrEnum):
    """The kinds of reasons why a tensor is not audited."""

    UNCHANGED = "unchanged"
    NOT_FINITE = "not finite"  # holds NaN or infinity
    OTHER_SHAPE = "other shape"
    NO_COUNTERPART = "no counterpart"  # missing on the other side
    OTHER = "other"  # not selected, not a matrix, the same tensor under another name, ...


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not audited, and why."""

    name: str
    reason: str
    kind: SkipKind = SkipKind.OTHER


@dataclass(frozen=True)
class PairedMatrix:
    """A matrix that both sides have, in the types of the files; ``load`` answers None when the two are equal."""

    name: str
    shape: tuple[int, int]
    rank: int | None  # of the update, when it is stored as factors
    load: "Callable[[], Pair | None]" = field(repr=False)
    scale: float | None = None  # inside the update, such as alpha / r of an adapter's factors
    # W as a merge by PEFT leaves it in a type, of a matrix that PEFT makes.
    merged: "Callable[[torch.dtype], Tensor] | None" = field(default=None, repr=False)


@dataclass(frozen=True)
class Pairing:
    """The matrices to audit, in the base's order, and the tensors left out."""

    base: "Checkpoint" = field(repr=False)  # the two sides as they were opened
    tuned: "Opened" = field(repr=False)
    pairs: list[PairedMatrix]
    skipped: list[Skipped]
    matched: list[str] = field(default_factory=list)  # what was matched other than by equal names, in words
    biases: list[str] = field(default_factory=list)  # of the base, that an adapter changes with its matrices
