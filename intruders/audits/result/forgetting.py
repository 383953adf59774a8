"""The nats that an audit predicts: how much a fine-tuning made its base forget, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import fsum
from statistics import median
from typing import TYPE_CHECKING

from ...checkpoints.stored.names import module_paths
from ...engine.between import Between
from ...system.words import percent, plural

if TYPE_CHECKING:
    from .records import AuditedMatrix

# Beyond these nats per token an update is too large for a second-order term: "large" is said, and no more.
LARGE = 1.0
# Effective rank, median over the matrices, below which nothing is predicted: docs/results/nats.md.
OF_RANK_1 = 1.5
NOT_OF_RANK_1 = (
    "no nats are predicted of an update of rank 1, which our study found up to twice too high; measure it with "
    "intruders evaluate"
)


@dataclass(frozen=True)
class Forgetting:
    """A prediction from the base's gradients on a text; the tuned model was not run.

    Attributes:
      text: the text that the base was prepared on (``intruders prepare --loss-on``).
      tokens: how many tokens of it.
      kl: mean KL(base || tuned), in nats per token, with its 95 % interval over documents. It is the second-order term.
      by_matrix: the share of the KL in every matrix; they sum to 1, and one is negative where it undoes another.
      in_intruders: the share that lies in the directions of a matrix's intruders, by matrix.
      left_out: changed tensors that the prediction does not count.
    """

    text: str
    tokens: int
    kl: Between
    by_matrix: dict[str, float]
    in_intruders: dict[str, float]
    left_out: list[str]

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """Return by kind of module its share, and what of that is in the directions of intruders."""
        kinds: dict[str, tuple[float, float]] = {}
        for name, path in zip(self.by_matrix, module_paths(list(self.by_matrix)), strict=True):
            share, of_intruders = kinds.get(path.kind, (0.0, 0.0))
            kinds[path.kind] = share + self.by_matrix[name], of_intruders + self.in_intruders.get(name, 0.0)
        return kinds

    def without(self, changed: Sequence[str]) -> Forgetting:
        """Return the same with more changed tensors that it does not count."""
        return replace(self, left_out=[*self.left_out, *changed])

    @property
    def is_large(self) -> bool:
        """Whether the update is too large for a second-order term: it forgets much, and only a run tells how much."""
        return self.kl.high > LARGE

    @property
    def intruder_share(self) -> float:
        """The share of the KL that lies in the directions of all intruders."""
        return fsum(self.in_intruders.values())

    @property
    def share_of_their_matrices(self) -> float:
        """The share of the KL in all matrices with an intruder."""
        return fsum(self.by_matrix[name] for name in self.in_intruders)

    def is_above(self, limit: float) -> bool:
        """Whether the model forgot more than a limit, in nats per token: all of the interval lies above."""
        return self.kl.low > limit

    def scale_within(self, limit: float) -> float:
        """Return the largest factor of the update, up to 1, at which the upper end of the interval is at most a limit.

        The KL and its interval go with the square of the factor.
        """
        return 1.0 if self.kl.high <= limit else math.sqrt(limit / self.kl.high)

    @property
    def not_counted(self) -> str:
        """What the prediction leaves out, in words; empty where that is nothing."""
        some = plural(len(self.left_out), "changed tensor")
        return f"{some} such as {self.left_out[0]}" if self.left_out else ""

    def above_in_words(self, limit: float) -> str:
        """Return why a gate of this limit fails."""
        return (
            f"{self._amount} per token are predicted to be forgotten on {self.text}, with 95 % "
            f"confidence more than the {limit:g} that --fail-above-nats allows"
        )

    def in_words(self) -> str:
        """Return the prediction in one line.

        >>> small = Between(0.28, 0.23, 0.34)
        >>> Forgetting("pydoc", 1536, small, {}, {}, []).in_words()
        'predicted: 0.28 nats per token [0.23, 0.34] forgotten on pydoc (KL)'
        """
        ends = "" if self.is_large else f" [{shown(self.kl.low)}, {shown(self.kl.high)}]"
        end = "; large: measure it" if self.is_large else ""
        return f"predicted: {self._amount} per token{ends} forgotten on {self.text} (KL){end}"

    @property
    def _amount(self) -> str:
        return "about a nat or more" if self.is_large else f"{shown(self.kl.estimate)} nats"

    def shares_in_words(self) -> str:
        """Return how much lies in the intruders, and what is not counted."""
        matrices = plural(len(self.in_intruders), "matrix", "matrices")
        words = (
            f"{percent(max(0.0, self.intruder_share))} of it in the intruders' directions, "
            f"{percent(max(0.0, self.share_of_their_matrices))} in the {matrices} with intruders"
            if self.in_intruders
            else "none of it in intruders: there are none"
        )
        return f"{words}; not counted: {self.not_counted}" if self.left_out else words


def median_rank(matrices: Iterable[AuditedMatrix]) -> float:
    """Return the median effective rank of the updates of some matrices; NaN of none."""
    return median([matrix.update.effective_rank for matrix in matrices] or [math.nan])


def why_nats_open(forgetting: Forgetting | None, rank: float, limit: float) -> str | None:
    """Return why an audit, of a median rank, does not tell whether a model keeps to a limit; None where it does."""
    if forgetting is None and rank < OF_RANK_1:
        return NOT_OF_RANK_1
    if forgetting is None:
        return (
            "no nats are predicted, because the base is not prepared; run intruders prepare BASE --loss-on TEXT once, "
            "and every audit of the base predicts them; or measure them: intruders evaluate --fail-above"
        )
    is_open = forgetting.left_out and not forgetting.is_above(limit)
    return f"{forgetting.not_counted} are not counted" if is_open else None


def in_short(nats: float, low: float, high: float) -> str:
    """Return a prediction and its interval in at most 20 characters; of a large update what it is above.

    >>> in_short(0.28, 0.23, 0.34), in_short(0.9, 0.7, 1.2), in_short(math.nan, math.nan, math.nan)
    ('0.28 [0.23, 0.34]', '> 0.7', '-')
    >>> in_short(0.0028, 0.0023, 0.0034), in_short(0.0004, 0.0003, 0.0005)
    ('0.003 [0.002, 0.003]', '< 0.001')
    """
    if math.isnan(nats):
        return "-"
    if high > LARGE or high < 0.001:
        return f"> {shown(low)}" if high > LARGE else "< 0.001"
    numbers = [shown(value) if value >= 0.01 else f"{value:.3f}" for value in (nats, low, high)]
    return "{} [{}, {}]".format(*numbers)


def shown(nats: float) -> str:
    """Return nats with two digits."""
    return f"{nats:.2g}" if nats < 10 else f"{nats:.0f}"
