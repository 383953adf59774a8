"""What a remedy is: a value that says what it reads of a tuned matrix, and what it changes there."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.names import is_embedding_or_head, module_paths
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...linalg.operators import Update
from ...linalg.svd import Components, significant
from ...settings import Settings
from .changes import Change
from .remedy_table import ALL, INTRUDERS, WHICH

# Where a remedy changes weights: in matrices with intruders, in every audited matrix that was tuned, or there and in
# everything else that was tuned (embeddings, norms, biases), where the target holds it.
Reach = Literal["intruders", "matrices", "model"]


@dataclass(frozen=True)
class WantedTriplets:
    """Singular triplets of one matrix: which, and of what."""

    of: Literal["base", "tuned", "update"]
    indices: tuple[int, ...]  # in the descending order of the singular values

    @classmethod
    def leading(cls, of: Literal["base", "tuned", "update"], count: int) -> "WantedTriplets":
        return cls(of, tuple(range(count)))


@dataclass(frozen=True)
class Position:
    """A layer of a stack, or none.

    >>> positions_of(["h.0.w", "h.1.w", "norm"])["h.1.w"]
    Position(layer=1, layers=2, is_embedding_or_head=False)
    """

    layer: int | None  # counted from 0; None outside of the layers
    layers: int  # how many there are in its stack; 0 outside of them
    is_embedding_or_head: bool = False


def positions_of(names: Iterable[str]) -> Mapping[str, Position]:
    """Return the position of every name; the layers of encoder and decoder are counted separately."""
    listed = list(names)
    paths = module_paths(listed)
    layers: dict[str, int] = {}
    for path in paths:
        if path.layer is not None:
            layers[path.stack] = max(layers.get(path.stack, 0), path.layer + 1)
    return {
        name: Position(
            path.layer,
            0 if path.layer is None else layers[path.stack],
            path.layer is None and is_embedding_or_head(name),
        )
        for name, path in zip(listed, paths, strict=True)
    }


@dataclass(frozen=True)
class Case:
    """A tuned matrix and what the remedies need of it; in the units of the checkpoint."""

    matrix: AuditedMatrix
    update: Update  # D, (m, n)
    parts: Mapping[WantedTriplets, Components]  # fewer than were asked for, where the matrix has fewer
    position: Position
    threshold: float | None = None  # theta of the spiked threshold, where a remedy asks for it
    base: Tensor | None = None  # W0, where a remedy asks for it


class Remedy(ABC):
    """A change of tuned matrices.

    A remedy is a class in a file of this folder and a line of ``remedy_table.py``.
    """

    name: ClassVar[str]
    reach: ClassVar[Reach]
    source: ClassVar[str]  # the paper
    strength: ClassVar[str]  # the setting that ``--strength`` stands for
    strengths: ClassVar[tuple[float, ...]] = ()  # those worth comparing, from the mildest
    in_words: ClassVar[str]  # what was done, with ``vectors`` and its fields in braces
    nothing_at: ClassVar[float | None] = None  # the strength at which every matrix stays as it is
    needs_threshold: ClassVar[bool] = False  # of the case
    needs_base: ClassVar[bool] = False  # of the case
    fits_an_adapter: ClassVar[bool] = True  # whether what it leaves of a low-rank update has a low rank
    # Whether it scales by one number per tensor, so that norm and direction say all.
    scales_whole_updates: ClassVar[bool] = False

    @property
    def intruder_scale(self) -> float | None:
        """The share of the intruders, or of what a control takes in their place, that stays; None of another remedy."""
        return None

    @property
    def changes_nothing(self) -> bool:
        """Whether every matrix stays as it is, whatever it holds."""
        return self.nothing_at is not None and self.strength_value == self.nothing_at

    @property
    def strength_value(self) -> float:
        return float(getattr(self, self.strength))

    def fitted(self, pairs: Sequence[PairedMatrix], config: Mapping[str, Any] | None) -> "Remedy":
        """The remedy with what it must know of all tuned matrices together, and of the base's config."""
        return self

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        """Return why it cannot change a matrix whose update is of a rank, or dense (None); None where it can."""
        return None

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        """Return what it reads of a matrix besides the update."""
        return ()

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets | None:
        """Return the singular vectors that it scales; None of a remedy that scales no single ones."""
        return None

    def exists(self, case: Case) -> bool:
        """Return whether such a change of the matrix exists; a matrix without it stays as it is."""
        return True

    @abstractmethod
    def change(self, case: Case) -> Change:
        """Return the change of the matrix."""

    def share_elsewhere(self, name: str, position: Position | None) -> float:
        """Return the share that stays of the update of a tensor that no audit examines.

        Its position is None if the selection of tensors leaves it out.
        """
        return 1.0

    def sentence(self, vectors: int) -> str:
        """Return what was done, with the number of singular vectors where it scales single ones."""
        return self.in_words.format(vectors=vectors, **vars(self))

    @abstractmethod
    def recorded(self) -> dict[str, Any]:
        """Return its settings as plain JSON types."""

    def recorded_by_name(self) -> dict[str, Any]:
        """Return the settings that make it again from its name."""
        return self.recorded()


@dataclass(frozen=True)
class ScaledRemedy(Remedy):
    """A change of every matrix that has intruders, by one number."""

    reach = "intruders"
    strength = "scale"
    nothing_at = 1
    source = "Shuttleworth et al., arXiv 2410.21228"

    scale: float  # the share of the singular vectors that is kept: 0 removes them, 1 changes nothing
    seed: int = 0  # of a remedy that draws
    which: str = ALL  # of a matrix's intruders

    def __post_init__(self) -> None:
        if self.which not in WHICH:
            raise SettingError(
                f"which is {self.which!r}; expected all, or top for the intruder of each matrix with the largest "
                "singular value"
            )
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not number or not math.isfinite(self.scale) or self.scale < 0:
            raise SettingError(
                f"scale is {self.scale!r}; "
                "expected the share of the intruders to keep: 0 removes them, 1 changes nothing"
            )

    @property
    def intruder_scale(self) -> float:
        return self.scale

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        return WantedTriplets("tuned", intruder_indices(matrix, self.which))

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return (self.scaled(matrix),)

    def recorded(self) -> dict[str, Any]:
        # Came later: without it, what earlier versions kept is still found.
        return {"scale": self.scale, "seed": self.seed} | ({} if self.which == ALL else {"which": self.which})


@dataclass(frozen=True)
class ScaledIntruders(ScaledRemedy):
    """The paper's intervention: every intruder times ``scale``, or the strongest one of each matrix.

    ``W' = W + (scale - 1) sum_j s_j y_j v_j^T`` over the intruders j, with the singular value decomposition of the
    tuned matrix W (Shuttleworth et al. 2024, section 5; the authors confirm that it is that of W, not of the update).
    The paper's own experiments scale one intruder of each matrix, the one with the largest singular value.
    """

    name = INTRUDERS
    strengths = (0.75, 0.5, 0.25, 0.0)

    def change(self, case: Case) -> Change:
        return Change(added=LowRank(*case.parts[self.scaled(case.matrix)].factors(self.scale - 1.0)))

    def sentence(self, vectors: int) -> str:
        whose = "" if self.which == ALL else ", the strongest of each matrix,"
        return f"{vectors:,} intruders{whose} scaled by {self.scale:g}"


def intruder_indices(matrix: AuditedMatrix, which: str = ALL) -> tuple[int, ...]:
    """Return the intruders' indices, in the descending order of W's singular values; ambiguous ones as counted."""
    indices = tuple(vector.index for vector in matrix.vectors if vector.intruder)
    return indices if which == ALL else indices[:1]


class PublishedRemedy(Settings, Remedy):
    """A remedy from the literature, with settings of its own.

    Its docstring is what the documentation's table is written from: the formula, the source, the default.
    """

    reach = "matrices"

    def components(self, case: Case) -> Components:
        """Return the triplets that it needs, of a remedy that needs one kind."""
        [components] = (case.parts[need] for need in self.needs(case.matrix))
        return components


class SpectralRemedy(PublishedRemedy):
    """A remedy that weighs or drops the singular triplets of every update."""

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return (WantedTriplets.leading("update", min(matrix.shape)),)

    def kept(self, part: Components, count: int, name: str) -> Components:
        """Choose that many triplets of a matrix."""
        return part.first(count)

    def directions(self, case: Case) -> Components:
        """Return the triplets of the update that it weighs: all but those that rounding leaves of zeros."""
        components = self.components(case)
        return components.first(significant(components.values))


class EntryRemedy(PublishedRemedy):
    """A remedy that keeps single entries of an update, which then has no low rank."""

    needs_base = True
    fits_an_adapter = False

    def change(self, case: Case) -> Change:
        return Change(entries=partial(self.left, case.matrix.name))

    @abstractmethod
    def left(self, name: str, base: Tensor, update: Tensor) -> Tensor:
        """Return what is left of the update of a matrix, from W0 and D in double precision."""


class ShareRemedy(PublishedRemedy):
    """A remedy that keeps a share of every update, by its position in the model alone."""

    reach = "model"
    scales_whole_updates = True

    @abstractmethod
    def share(self, position: Position) -> float:
        """Return the share that stays of the update of a tensor in that position."""

    def change(self, case: Case) -> Change:
        return Change(share=self.share(case.position))

    def share_elsewhere(self, name: str, position: Position | None) -> float:
        return 1.0 if position is None else self.share(position)
