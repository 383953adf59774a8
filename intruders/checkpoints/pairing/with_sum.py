"""Several tuned models or adapters with weights: W0 + sum_i w_i (W_i - W0)."""

from __future__ import annotations

from functools import reduce

import torch

from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from ..adapters.formulas import widened
from .pairing import PairedMatrix, Pairing


def pair_with_sum(source: str, parts: list[tuple[Pairing, float]]) -> Pairing:
    """One pairing of the weighted sum, in which low-rank updates stay factors, one stacked on the other."""
    by_name: dict[str, list[tuple[PairedMatrix, float]]] = {}
    for pairing, weight in parts:
        for pair in pairing.pairs:
            by_name.setdefault(pair.name, []).append((pair, weight))
    skipped = {one.name: one for pairing, _ in reversed(parts) for one in pairing.skipped}
    kinds = {pairing.tuned_kind for pairing, _ in parts}
    return Pairing(
        parts[0][0].base_source,
        source,
        kinds.pop() if len(kinds) == 1 else "stack",
        [_stacked(pairs) for pairs in by_name.values()],
        [one for name, one in skipped.items() if name not in by_name],
        list(dict.fromkeys(note for pairing, _ in parts for note in pairing.matched)),
    )


def _stacked(pairs: list[tuple[PairedMatrix, float]]) -> PairedMatrix:
    ranks = [pair.rank for pair, _ in pairs]
    rank = sum(rank for rank in ranks if rank is not None) if None not in ranks else None

    def load() -> Pair | None:
        loaded = [(both, weight) for pair, weight in pairs if (both := pair.load()) is not None and weight]
        if not loaded:
            return None
        base = loaded[0][0].base
        low_rank = [both.tuned.scaled(weight) for both, weight in loaded if isinstance(both.tuned, LowRank)]
        if len(low_rank) == len(loaded):
            return Pair(base, reduce(LowRank.plus, low_rank))
        total = widened(base) + sum(
            (weight * both.widened().update.dense() for both, weight in loaded), torch.tensor(0.0)
        )
        return None if torch.equal(total, widened(base)) else Pair(base, total)

    return PairedMatrix(pairs[0][0].name, pairs[0][0].shape, rank, load)
