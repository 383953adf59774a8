"""Interpolation from the base to the tuned model, which every remedy and control is compared with."""

from __future__ import annotations

from ...measures.outcome import Outcome
from ...mitigation.remedies.interpolate import Interpolate
from .bench import Bench
from .data_shares import DataShare
from .interpolation_curve import ALPHAS

# From the base to the tuned model.
ALONG_CURVE = tuple(Interpolate(alpha) for alpha in ALPHAS)


def curve(bench: Bench, share: DataShare, *, answers: bool = False, step: str | None = None) -> list[Outcome]:
    """Measure interpolation on a share of the data, from the first alpha above 0 to the tuned model.

    Args:
      bench: with the matrices of ``ALONG_CURVE`` in use.
      share: the documents and examples.
      answers: also measure which answers of the tuned model are right.
      step: what the progress says.
    """
    *inner, tuned = ALONG_CURVE[1:]
    return [
        *(bench.outcome(remedy, share, step=step) for remedy in inner),
        bench.outcome(tuned, share, answers=answers, step=step),
    ]
