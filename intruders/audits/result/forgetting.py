"""The nats that an audit predicts: how much a fine-tuning made its base forget, and where."""

import math
from dataclasses import dataclass

from ...checkpoints.stored.names import module_paths
from ...system.words import percent, plural

# Beyond these nats per token an update is too large for a second-order term: "large" is said, and no more.
LARGE = 1.0
# Effective ranks, median over the matrices, outside which our study did not bear predictions: docs/results/nats.md.
_LEAST_RANK, _LARGEST_RANK = 1.5, 64
NOT_PREDICTED = (
    "no nats are predicted of an update of rank 1 or of full fine-tuning (an effective rank below 1.5 or above 64), "
    "which our study found too far from the measured ones; measure it with intruders evaluate"
)


@dataclass(frozen=True)
class Between:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Forgetting:
    """A prediction from the base's gradients on a text; the tuned model was not run.

    Attributes:
      text: the text that the base was prepared on (``intruders prepare --loss-on``).
      tokens: how many tokens of it.
      kl: mean KL(base || tuned), in nats per token, with its 95 % interval over documents. It is the second-order term.
      by_matrix: the share of the KL in every matrix; they sum to 1, and one is negative where it undoes another.
      affected: the matrices with intruders among those.
      left_out: changed tensors that the prediction does not count.
    """

    text: str
    tokens: int
    kl: Between
    by_matrix: dict[str, float]
    affected: list[str]
    left_out: list[str]

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """Return by kind of module its share, and what of that is in matrices with intruders."""
        kinds: dict[str, tuple[float, float]] = {}
        affected = set(self.affected)
        for (name, own), path in zip(self.by_matrix.items(), module_paths(list(self.by_matrix)), strict=True):
            share, of_affected = kinds.get(path.kind, (0.0, 0.0))
            kinds[path.kind] = share + own, of_affected + (own if name in affected else 0.0)
        return kinds

    @property
    def is_large(self) -> bool:
        """Whether the update is too large for a second-order term: it forgets much, and only a run tells how much."""
        return self.kl.high > LARGE

    @property
    def affected_share(self) -> float:
        """The share of the KL in all matrices with an intruder."""
        return math.fsum(self.by_matrix[name] for name in self.affected)

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
        return (
            f"{self._amount} per token are predicted to be forgotten on {self.text}, with 95 % "
            f"confidence more than the {limit:g} that --fail-above-nats allows"
        )

    def in_words(self) -> str:
        """Return the prediction in one line.

        >>> small = Between(0.28, 0.23, 0.34)
        >>> Forgetting("pydoc", 1536, small, {}, [], []).in_words()
        'predicted: 0.28 nats per token [0.23, 0.34] forgotten on pydoc (KL)'
        """
        ends = "" if self.is_large else f" [{shown(self.kl.low)}, {shown(self.kl.high)}]"
        end = "; large: measure it" if self.is_large else ""
        return f"predicted: {self._amount} per token{ends} forgotten on {self.text} (KL){end}"

    @property
    def _amount(self) -> str:
        return "about a nat or more" if self.is_large else f"{shown(self.kl.estimate)} nats"

    def shares_in_words(self) -> str:
        """Return how much lies in matrices with intruders, and what is not counted."""
        some = plural(len(self.affected), "matrix", "matrices")
        words = (
            f"{percent(max(0.0, self.affected_share))} of it in the {some} with intruders"
            if self.affected
            else "none of it in intruders: there are none"
        )
        return f"{words}; not counted: {self.not_counted}" if self.left_out else words


def is_predictable(rank: float) -> bool:
    return not (rank < _LEAST_RANK or rank > _LARGEST_RANK)


def why_not_predicted(rank: float) -> str:
    if not is_predictable(rank):
        return NOT_PREDICTED
    return (
        "no nats are predicted, because the base is not prepared; run intruders prepare BASE --loss-on TEXT once, "
        "and every audit of the base predicts them; or measure them: intruders evaluate --fail-above"
    )


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
    return f"{nats:.2g}" if nats < 10 else f"{nats:.0f}"
