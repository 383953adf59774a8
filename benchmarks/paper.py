"""Shows what models too large for this machine would cost, from the rows measured on layers of theirs.

Cost is taken to be proportional to the number of weights, and the factor is that of the largest layers measured. How
good that is shows in how well the layers of the 7B model predict those of the 70B model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .measure import Row


@dataclass(frozen=True)
class Architecture:
    """A decoder by the shapes of its linear layers."""

    name: str
    layers: int
    hidden: int
    keys: int  # rows of the key and of the value projection
    inner: int

    @property
    def weights(self) -> int:
        """Of the audited matrices: no embeddings, no head."""
        attention = 2 * self.hidden**2 + 2 * self.keys * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.inner)


ARCHITECTURES = (
    Architecture("Llama-2-7B", 32, 4096, 4096, 11008),
    Architecture("Llama-2-70B", 80, 8192, 1024, 28672),
    Architecture("Llama-3.1-405B", 126, 16384, 1024, 53248),
)


@dataclass(frozen=True)
class Check:
    """A large layer's time beside the one that smaller layers of its kind predict."""

    label: str
    cold: float  # measured over predicted
    cached: float


@dataclass(frozen=True)
class Estimate:
    """Seconds for a whole model, all of whose matrices are like the rows it is made from."""

    model: str
    weights: int
    intruders: bool
    cold: float
    cached: float
    reading: float  # of the passes alone, at the machine's rate, nothing cached


def checks(small: Sequence[Row], large: Sequence[Row]) -> list[Check]:
    """Large rows against small ones: both wide or both tall, both with intruders or both without."""
    found = []
    for row in large:
        alike = next(other for other in small if _kind(other) == _kind(row))
        factor = row.elements / alike.elements
        cold = row.cold.seconds / (factor * alike.cold.seconds)
        label = f"{row.label}, {row.intruders} intruders"
        found.append(Check(label, cold, row.cached.seconds / (factor * alike.cached.seconds)))
    return found


def estimates(large: Sequence[Row], bytes_a_second: float) -> list[Estimate]:
    """What whole models would take at the mean time a weight of the large rows, with and without intruders."""
    found = []
    for model in ARCHITECTURES:
        for intruders in (False, True):
            rows = [row for row in large if (row.intruders > 0) == intruders]
            if not rows:
                continue
            share = model.weights / sum(row.elements for row in rows)
            read = sum(4 * row.elements * row.cold.passes for row in rows) / bytes_a_second
            found.append(
                Estimate(
                    model.name,
                    model.weights,
                    intruders,
                    share * sum(row.cold.seconds for row in rows),
                    share * sum(row.cached.seconds for row in rows),
                    share * read,
                )
            )
    return found


def _kind(row: Row) -> tuple[int, bool]:
    assert row.shape is not None
    m, n = row.shape
    return (m > n) - (m < n), row.intruders > 0
