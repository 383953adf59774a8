"""The curve that interpolation draws from the base to the tuned model, in loss on text over loss on the task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

# Shares of the update at which it is measured; the base itself is the first point.
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))


def loss_at_task_loss(losses: Numbers, task_losses: Numbers, wanted: Numbers) -> Numbers:
    """Return the least loss on the curve among its points whose task loss is at most ``wanted``.

    Between the points that were measured the curve is a straight line. Where it only falls, that is its loss at just
    that task loss. Where no point has so low a task loss, it is the loss at the point with the lowest.

    Args:
      losses: of the curve's points, (..., points).
      task_losses: likewise.
      wanted: (...).

    >>> losses, task_losses = np.array([2.0, 3.0, 5.0]), np.array([4.0, 1.0, 0.0])
    >>> [float(loss_at_task_loss(losses, task_losses, np.array(at))) for at in (4.0, 2.5, 0.5, -1.0)]
    [2.0, 2.5, 4.0, 5.0]
    """
    at = np.asarray(wanted)[..., None]
    reached = task_losses <= at
    best = np.where(reached, losses, np.inf).min(axis=-1)
    first, second = task_losses[..., :-1], task_losses[..., 1:]
    crosses = reached[..., :-1] != reached[..., 1:]
    share = np.where(crosses, at - first, 0.0) / np.where(crosses, second - first, 1.0)
    between = losses[..., :-1] + share * (losses[..., 1:] - losses[..., :-1])
    best = np.minimum(best, np.where(crosses, between, np.inf).min(axis=-1))
    lowest = np.take_along_axis(losses, task_losses.argmin(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(np.isinf(best), lowest, best)


def loss_at_norm(losses: Numbers, norms: Sequence[float], norm: float) -> Numbers:
    """Return the loss on the curve where the updates have a norm; ``losses`` are those at ``norms``, (..., points).

    >>> float(loss_at_norm(np.array([2.0, 3.0, 5.0]), (0.0, 0.5, 1.0), 0.75))
    4.0
    """
    segment = min(max(int(np.searchsorted(norms, norm, side="right")) - 1, 0), len(norms) - 2)
    share = (norm - norms[segment]) / (norms[segment + 1] - norms[segment])
    at_norm: Numbers = losses[..., segment] + share * (losses[..., segment + 1] - losses[..., segment])
    return at_norm
