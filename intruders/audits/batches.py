"""The matrices of a base, read one by one with what one or several models make of them, and batched.

Matrices of one model are batched by shape. What several models make of one matrix is a batch that shares it: the matrix
is read, widened and hashed once, and its products with the rows of all of them are one product each.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

import torch
import xxhash
from torch import Tensor

from ..checkpoints.pairing.pairing import PairedMatrix, SkipKind, Skipped
from ..engine.decide import DENSE_BELOW
from ..engine.known_base import KnownBase
from ..engine.nats import KeptRows
from ..errors import ChangedBaseError, IntrudersError, NonFiniteError, in_one_line
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair, over_unit
from ..linalg.random_directions import SketchDirections
from .base_cache import BaseCache, BaseKeys, look_up

# Matrices are judged together up to this many bytes, so that the calls do not dominate small ones. In a larger batch
# all wait longer for the one that converges last.
BATCH_BYTES = 12 * 2**20
# Batches up to this size are decided by several threads at once; larger matrices keep all cores busy one by one.
SHARED_BYTES = 24 * 2**20
# Low-rank updates of one matrix are judged together up to this number. Beyond it their rows no longer fit the time in
# which the matrix is read, and all wait longer for the one that converges last.
BATCH_UPDATES = 12
# This many batches of updates of one matrix are read before they are sorted by size and decided.
_BATCHES_SORTED = 4

Sharers = Sequence[tuple[int, PairedMatrix]]  # the models that change one matrix, by their numbers


class SharedMatrix:
    """A matrix of the base in the precision and unit that it is judged in, and what is known of it so far."""

    def __init__(self, name: str, matrix: Tensor, unit: float = 1.0) -> None:
        self.name, self.matrix, self.unit = name, matrix, unit  # (m, n)
        self.lock = threading.Lock()
        self.known: KnownBase | None = None
        # Made once: the matrix divided by a unit, and the keys of its entries in the base cache by k.
        self.over = cache(lambda unit: SharedMatrix(name, matrix / unit, unit))
        self.keys = cache(partial(BaseKeys.of, matrix))
        self._rows: list[KeptRows | None] = []

    @cached_property
    def magnitude(self) -> float:
        return largest_magnitude(self.matrix)

    @cached_property
    def directions(self) -> SketchDirections:
        return directions_of(self.name, self.matrix)

    def rows(self, read: Callable[[str, Tensor], KeptRows | None]) -> KeptRows | None:
        """Return the rows that predict nats; read once."""
        with self.lock:
            if not self._rows:
                self._rows.append(read(self.name, self.matrix))
        return self._rows[0]

    def look_up(self, k: int, store: BaseCache | None) -> None:
        """Take what the store knows of it, unless it is known already."""
        if self.known is None and store is not None:
            self.known = look_up(store, [self.keys(k)], self.matrix.device)

    def learn(self, computed: KnownBase | None, k: int, store: BaseCache | None) -> None:
        """Keep what a batch computed of it, if that is more than was known."""
        if computed is None or (self.known is not None and self.known.whole() is not None):
            return
        best = computed.select(computed.floor.argmax().reshape(1))
        if self.known is None or bool(best.floor > self.known.floor):
            self.known = best
            if store is not None:
                store.put(self.keys(k).leading, best)


def directions_of(name: str, matrix: Tensor) -> SketchDirections:
    """Return the random directions of a base matrix ``(m, n)``: the same in every fleet."""
    seed = xxhash.xxh3_64_intdigest(name.encode()) >> 1  # torch takes 63 bits
    m, n = matrix.shape
    return SketchDirections.of(m, n, seed, matrix)


@dataclass(frozen=True)
class UpdatesAhead:
    """The updates of one base matrix that are still to be decided, as far as they are read."""

    sizes: Sequence[float]  # Frobenius norms, in the unit that the base is judged in
    unread: int

    def expected_from(self, size: float) -> float:
        """Return how many are expected to be of that size or larger; those not read are taken to be like the others."""
        if not self.sizes:
            return 0.0
        return sum(own >= size for own in self.sizes) * (1 + self.unread / len(self.sizes))


@dataclass(frozen=True)
class Batch:
    """Matrices of equal shape to be decided together."""

    matrices: list[PairedMatrix]
    pair: Pair  # of all of them, each divided by its unit
    units: list[float]  # powers of two
    models: list[int]  # whose matrices they are
    shared: SharedMatrix | None = None  # the base of all of them, where several models change one matrix
    ahead: UpdatesAhead | None = None  # these and later updates of the shared base

    def is_small(self) -> bool:
        """Whether several threads decide such batches side by side."""
        base = self.pair.base if self.shared is None else self.shared.matrix
        return base.nbytes <= SHARED_BYTES and base.is_cpu

    def select(self, chosen: Sequence[int]) -> "Batch":
        """Return some matrices of the batch; a shared base is not copied."""
        return replace(
            self,
            matrices=[self.matrices[at] for at in chosen],
            pair=self.pair.select(torch.tensor(chosen, dtype=torch.long, device=self.pair.base.device)),
            units=[self.units[at] for at in chosen],
            models=[self.models[at] for at in chosen],
        )


@dataclass
class NotJudged:
    """What is not judged: matrices that are skipped and, in a fleet, models that are refused."""

    skip_non_finite: bool = False
    goes_on: bool = False  # with the other models, when one is refused
    skipped: dict[int, list[Skipped]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


def of_one_model(pairs: Iterable[PairedMatrix]) -> list[Sharers]:
    """Return the matrices of a model that is read alone, which has the number 0."""
    return [[(0, matrix)] for matrix in pairs]


def device_for(shape: Sequence[int], device: torch.device) -> torch.device:
    """Return where matrices of a shape are decided: small ones on the processor, whatever device the large ones use.

    Their decompositions are many short calls, of which a GPU waits for each.
    """
    return torch.device("cpu") if min(shape) < DENSE_BELOW else device


def read_batches(
    matrices: Iterable[Sharers], device: torch.device, left_out: NotJudged | None = None
) -> Iterator[Batch]:
    """Load matrix after matrix, each for all models that change it, and hand them on in batches.

    Matrices come in single precision (double where a side came in double), divided by a power of two where their
    squares would not fit. Where several models change one, the base of the pairs keeps what was read last
    (:func:`intruders.checkpoints.stored.checkpoint.read_once`). ``left_out`` gets what is not judged; a model that is
    refused has no further batches. NonFiniteError if a matrix holds NaN or infinity, and such are not to be skipped.
    """
    left_out = left_out or NotJudged()
    alone: dict[object, _Waiting] = {}
    for sharers in matrices:
        is_shared = len(sharers) > 1
        forms = _Forms(device, is_shared)
        waiting: dict[object, _Waiting] = {} if is_shared else alone
        for number, (model, matrix) in enumerate(sharers, 1):
            if model in left_out.refused:
                continue
            try:
                read = _read(matrix, forms, left_out.skip_non_finite)
            except ChangedBaseError:
                raise
            except IntrudersError as error:
                if not left_out.goes_on:
                    raise
                left_out.refused[model] = in_one_line(error)
                continue
            if isinstance(read, Skipped):
                left_out.skipped.setdefault(model, []).append(read)
                continue
            base, tuned = read
            rank = tuned.rank if isinstance(tuned, LowRank) else None
            key = (id(base), rank) if is_shared else (matrix.shape, rank, base.matrix.dtype)
            updates = waiting.setdefault(key, _Waiting(base, is_shared, rank is not None))
            updates.members.append((model, matrix, base, tuned))
            updates.sizes.append(tuned.norm() if is_shared and isinstance(tuned, LowRank) else 0.0)
            if len(updates.members) >= updates.most:
                ahead = _ahead(base, waiting, len(sharers) - number) if is_shared else None
                yield from waiting.pop(key).batches(ahead)
        if is_shared:
            for last in list(waiting):
                ahead = _ahead(waiting[last].base, waiting, 0)
                yield from waiting.pop(last).batches(ahead)
    for updates in alone.values():
        yield from updates.batches(None)


class _Waiting:
    """Matrices of one kind that wait for more of it: of one base, or of one shape."""

    def __init__(self, base: SharedMatrix, is_shared: bool, is_low_rank: bool) -> None:
        self.base, self.is_shared = base, is_shared
        self.members: list[tuple[int, PairedMatrix, SharedMatrix, Tensor | LowRank]] = []
        # Norms of low-rank updates of a shared base; 0 for other matrices, which keep their order.
        self.sizes: list[float] = []
        if is_shared and is_low_rank:
            self.batch_size, self.most = BATCH_UPDATES, BATCH_UPDATES * _BATCHES_SORTED
        else:
            self.batch_size = self.most = max(1, BATCH_BYTES // max(1, base.matrix.nbytes))

    def batches(self, ahead: UpdatesAhead | None) -> Iterator[Batch]:
        """Batch updates of similar size: a small one is decided at once, and would wait for a large one."""
        order = sorted(range(len(self.members)), key=self.sizes.__getitem__)
        for first in range(0, len(order), self.batch_size):
            members = [self.members[at] for at in order[first : first + self.batch_size]]
            models, matrices, bases, tuned = zip(*members, strict=True)
            if self.is_shared:
                # Of the base no copies are made.
                pair = Pair.joined([Pair(self.base.matrix[:0], after) for after in tuned])
                pair = Pair(self.base.matrix.expand(len(tuned), -1, -1), pair.tuned)
            else:
                pair = Pair.joined([Pair(own.matrix, after) for own, after in zip(bases, tuned, strict=True)])
            shared = self.base if self.is_shared else None
            yield Batch(list(matrices), pair, [own.unit for own in bases], list(models), shared, ahead)


def _ahead(base: SharedMatrix, waiting: dict[object, _Waiting], unread: int) -> UpdatesAhead:
    return UpdatesAhead(
        [size for updates in waiting.values() if updates.base is base for size in updates.sizes], unread
    )


class _Forms:
    """One base matrix in each precision that is needed; kept for the other models that share it."""

    def __init__(self, device: torch.device, is_shared: bool) -> None:
        self._device = device
        self._is_shared = is_shared
        self._stored: Tensor | None = None
        self._made: dict[torch.dtype, SharedMatrix] = {}

    def widened(self, name: str, stored: Tensor, dtype: torch.dtype) -> SharedMatrix:
        earlier = self._stored
        is_same = earlier is not None and earlier.dtype == stored.dtype
        if earlier is None or not (is_same and (earlier.is_set_to(stored) or torch.equal(earlier, stored))):
            # Of a single model, what the file holds is not kept in memory beside what is computed with.
            self._stored = stored if self._is_shared else None
            self._made = {}
        if dtype not in self._made:
            on = device_for(stored.shape, self._device)
            self._made[dtype] = SharedMatrix(name, stored.to(on, dtype))
        return self._made[dtype]


def _read(
    matrix: PairedMatrix, forms: _Forms, skip_non_finite: bool
) -> tuple[SharedMatrix, Tensor | LowRank] | Skipped:
    """Return the base's matrix and the tuned one or its update, in the base's unit; or why it is skipped."""
    loaded = loaded_or_skipped(matrix)
    if isinstance(loaded, Skipped):
        return loaded
    is_double = any(part.dtype == torch.float64 for part in loaded.parts)
    wide = forms.widened(matrix.name, loaded.base, torch.float64 if is_double else torch.float32)
    tuned = loaded.tuned.to(wide.matrix.device, wide.matrix.dtype)
    del loaded
    pair = Pair(wide.matrix, tuned)
    # Not Python's maximum, which may pass by a NaN; a factor may be empty.
    ends = [0.0, *(largest_magnitude(part) for part in pair.parts[1:] if part.numel())]
    of_tuned = float(torch.tensor(ends, dtype=torch.float64).max())
    largest = {"base": wide.magnitude, "tuned model": of_tuned}
    side = next((side for side, magnitude in largest.items() if not math.isfinite(magnitude)), None)
    if side is not None:
        if not skip_non_finite:
            raise non_finite(matrix.name, side)
        return Skipped(matrix.name, f"NaN or infinity in the {side}", SkipKind.NOT_FINITE)
    unit = unit_of(pair.rank, largest)
    return (wide, tuned) if unit == 1.0 else (wide.over(unit), over_unit(tuned, unit))


def loaded_or_skipped(matrix: PairedMatrix) -> Pair | Skipped:
    loaded = matrix.load()
    if loaded is None:
        return Skipped(matrix.name, "unchanged", SkipKind.UNCHANGED)
    if min(matrix.shape) == 0:
        return Skipped(matrix.name, f"empty: shape {matrix.shape}")
    return loaded


def non_finite(name: str, side: str) -> NonFiniteError:
    return NonFiniteError(
        f"'{name}' contains NaN or infinity in the {side}, so it has no singular vectors; "
        f"fix the checkpoint, or leave it out: --exclude '{name}' (audits: or --skip-non-finite)"
    )


def largest_magnitude(tensor: Tensor) -> float:
    """Return the largest magnitude in a tensor; not finite where a number is not."""
    # One pass without the temporary copy that ``abs`` would make; NaN survives both minimum and maximum.
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(low.abs(), high.abs()))


def unit_of(rank: int | None, largest: dict[str, float]) -> float:
    """Return a power of two to divide by, so that squares neither overflow nor vanish.

    1 for weights of common size. The size of factors says little of their product's, and does not count.
    """
    magnitude = max(largest.values()) if rank is None else largest["base"]
    if magnitude == 0 or 2.0**-20 <= magnitude <= 2.0**20:
        return 1.0
    return float(2.0 ** torch.frexp(torch.tensor(magnitude, dtype=torch.float64)).exponent.item())
