"""Which documents and examples a step learns from."""

from __future__ import annotations

import random
from collections.abc import Sequence


def turn(count: int, size: int, step: int, seed: int) -> list[int]:
    """Return the positions of a step: every item comes once before any repeats, in an order drawn per round.

    A step of more items than there are is a round.
    """
    size = min(size, count)
    return [_drawn(count, number, seed) for number in range(step * size, (step + 1) * size)]


def turns_of_parts(
    counts: Sequence[int], weights: Sequence[float], size: int, step: int, seed: int
) -> list[list[int]]:
    """Return the positions of a step in every part of a mixture, in the order drawn.

    Each draw goes to the part that is furthest behind its share of all draws so far, the first of several. So after n
    draws a part of share s has s n of them, to within one for each part.

    Args:
      counts: number of items of every part, above 0.
      weights: of every part, above 0; their sum does not matter.
      size: number of draws of a step, where there are as many items.
      step: the step, from 0.
      seed: seed of the order within a part.

    >>> [len(part) for part in turns_of_parts([4, 40], [3, 1], 8, step=0, seed=0)]
    [6, 2]
    """
    if len(counts) == 1:
        return [turn(counts[0], size, step, seed)]
    whole, drawn = sum(weights), [0] * len(counts)
    size = min(size, sum(counts))
    numbers: list[list[int]] = [[] for _ in counts]
    for number in range((step + 1) * size):
        behind = [weight / whole * (number + 1) - done for weight, done in zip(weights, drawn, strict=True)]
        part = behind.index(max(behind))
        if number >= step * size:
            numbers[part].append(_drawn(counts[part], drawn[part], seed))
        drawn[part] += 1
    return numbers


def _drawn(count: int, number: int, seed: int) -> int:
    """Return the position of a draw by its number, from 0."""
    turn, position = divmod(number, count)
    order = list(range(count))
    random.Random(f"round {seed} {turn}").shuffle(order)
    return order[position]
