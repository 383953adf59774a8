"""Random controls: a remedy whose choice is drawn by seed instead of made.

Does the choice matter? There is one for every remedy that chooses among like things: as many vectors, heads, layers,
entries, terms or directions, or the same weights and factors on others. ``interpolate`` and ``flatten`` treat all
directions of all matrices alike, and ``drop`` is a draw itself.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.svd import Components
from ...settings import Settings, setting
from .base_directions import Directions, Project
from .changes import Change, drawn_entries, largest_entries, seed_of
from .controls import RandomVectors
from .doses import Doses
from .entries import FAPM, Trim
from .heads import Head, Heads
from .remedy import Case, Position, Remedy, ScaledIntruders, WantedTriplets
from .shares import Layers, Lines
from .singular_values import Budget, DGHard, Truncate
from .surgery import Surgery

RANDOM = "random"


def at_random(remedy: Remedy, seed: int, cases: Sequence[Case]) -> Remedy | None:
    """The control that draws by ``seed`` what ``remedy`` chooses in ``cases``, which are all that it changes.

    None where it chooses nothing that can be drawn.
    """
    drawn = _DRAWN.get(type(remedy))
    return None if drawn is None else drawn(remedy, seed, cases)


@dataclass(frozen=True)
class _Drawn(Settings):
    """What is drawn has a seed, which follows the remedy's own settings."""

    seed: int = setting(0, "Seed of what is drawn.")


@dataclass(frozen=True)
class RandomHeads(_Drawn, Heads):
    """The same number of heads, drawn at random."""

    def in_order(self, heads: Sequence[Head], moved: Mapping[Head, float]) -> list[Head]:
        shuffled = list(heads)
        random.Random(f"heads {self.seed}").shuffle(shuffled)
        return shuffled


@dataclass(frozen=True)
class RandomLayers(_Drawn, Layers):
    """The same number of layers, drawn at random; embeddings and head as the remedy treats them."""

    def share(self, position: Position) -> float:
        return super().share(_moved(position, self.seed))


@dataclass(frozen=True)
class RandomLines(_Drawn, Lines):
    """The same shares, in an order of the layers that is drawn."""

    def share(self, position: Position) -> float:
        return super().share(_moved(position, self.seed))


@dataclass(frozen=True)
class RandomTerms(_Drawn, Truncate):
    """The same number of terms of the update, drawn at random."""

    def kept(self, part: Components, count: int, name: str) -> Components:
        return _drawn(part, count, f"terms {self.seed} {name}")


@dataclass(frozen=True)
class RandomTermsOfNoise(_Drawn, DGHard):
    """As many random terms of the update as are above the threshold of its noise."""

    def kept(self, part: Components, count: int, name: str) -> Components:
        return _drawn(part, count, f"terms {self.seed} {name}")


@dataclass(frozen=True)
class RandomDirections(_Drawn, Directions):
    """As many random ones of the 2k leading directions; a draw from all would mostly rewind negligible ones."""

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        count = min(2 * self.k, *matrix.shape)
        return WantedTriplets.leading("base", count), WantedTriplets.leading("tuned", count)

    def rewound(self, part: Components, case: Case) -> Components:
        count = min(self.k, len(part.values))
        return _drawn(part, count, f"directions {self.seed} {case.matrix.name}")


@dataclass(frozen=True)
class PermutedBudget(_Drawn, Budget):
    """The factors that the budget leaves of all updates, on other matrices, in an order that is drawn."""

    needs_threshold = False

    factors: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)  # by matrix

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return ()

    def change(self, case: Case) -> Change:
        return Change(share=self.factors[case.matrix.name])


@dataclass(frozen=True)
class RandomFrames(_Drawn, Project):
    """The same number of directions on either side, drawn evenly from all."""

    def frames(self, case: Case) -> tuple[Tensor, Tensor]:
        left, right = super().frames(case)
        generator = torch.Generator().manual_seed(seed_of(f"frames {self.seed} {case.matrix.name}"))
        drawn = (
            torch.randn(side.mT.shape, generator=generator, dtype=torch.float64) for side in (left, right)
        )
        first, second = (torch.linalg.qr(matrix)[0].mT.to(left.device) for matrix in drawn)
        return first, second


@dataclass(frozen=True)
class RandomEntries(Trim, _Drawn):  # in this order, its records have the seed before the density
    """The same number of entries of every update, drawn at random."""

    name = RANDOM
    in_words = "{density:.1%} of the updates' entries kept, drawn at random"

    def left(self, name: str, base: Tensor, update: Tensor) -> Tensor:
        scores = drawn_entries(f"entries {self.seed} {name}", update)
        return update * largest_entries(scores, self.density)


def _moved(position: Position, seed: int) -> Position:
    if position.layer is None:
        return position
    order = list(range(position.layers))
    random.Random(f"layers {seed} {position.layers}").shuffle(order)
    return replace(position, layer=order[position.layer])


def _permuted(remedy: Budget, seed: int, cases: Sequence[Case]) -> PermutedBudget:
    factors = [remedy.change(case).share for case in cases]
    random.Random(f"budget {seed}").shuffle(factors)
    by_matrix = {case.matrix.name: factor for case, factor in zip(cases, factors, strict=True)}
    return PermutedBudget(remedy.kappa, seed=seed, factors=by_matrix)


def _drawn(part: Components, count: int, key: str) -> Components:
    drawn = random.Random(key).sample(range(len(part.values)), count)
    chosen = torch.tensor(sorted(drawn), dtype=torch.int64, device=part.values.device)
    return part.select(chosen)


def _exchanged(remedy: Doses, seed: int, cases: Sequence[Case]) -> Doses:
    """The same doses, exchanged among matrices of one shape that have as many."""
    doses = dict(remedy.doses or {})
    alike: dict[tuple[tuple[int, int], int], list[str]] = {}
    for case in cases:
        name = case.matrix.name
        alike.setdefault((case.matrix.shape, len(doses[name])), []).append(name)
    for (shape, _), names in alike.items():
        drawn = [doses[name] for name in names]
        random.Random(f"doses {seed} {shape}").shuffle(drawn)
        doses |= dict(zip(names, drawn, strict=True))
    return replace(remedy, doses=doses)


_DRAWN: dict[type[Remedy], Callable[..., Remedy]] = {
    ScaledIntruders: lambda remedy, seed, _: RandomVectors(remedy.scale, seed, remedy.which),
    Heads: lambda remedy, seed, _: RandomHeads(quota=remedy.quota, seed=seed),
    Layers: lambda remedy, seed, _: RandomLayers(remedy.quota, seed=seed),
    Lines: lambda remedy, seed, _: RandomLines(remedy.alpha, seed=seed),
    Truncate: lambda remedy, seed, _: RandomTerms(remedy.energy, seed=seed),
    DGHard: lambda remedy, seed, _: RandomTermsOfNoise(remedy.factor, seed=seed),
    Directions: lambda remedy, seed, _: RandomDirections(remedy.k, seed=seed),
    Project: lambda remedy, seed, _: RandomFrames(remedy.k, seed=seed),
    Trim: lambda remedy, seed, _: RandomEntries(density=remedy.density, seed=seed),
    FAPM: lambda remedy, seed, _: RandomEntries(density=remedy.density, seed=seed),
    Surgery: lambda remedy, seed, _: replace(remedy, mode="random_index", seed=seed),
    Budget: _permuted,
    Doses: _exchanged,
}
