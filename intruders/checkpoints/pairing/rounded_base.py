"""Pairs whose base is rounded to a narrower type, while the tuned matrix stays as it was.

The published code of Shuttleworth et al. (github.com/reeceshuttle/intruder-dimensions, commit d4445a2) loads the base
in half precision and the tuned model in single precision. Its max cosines are therefore with the singular vectors of
``fp16(W0)``, and W - fp16(W0) contains the rounding too.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...linalg.pair import Pair
from .pairing import PairedMatrix, Pairing

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def with_rounded_base(pairing: Pairing, dtype: str | None) -> Pairing:
    """Return the pairing with each base matrix rounded to ``dtype``; None leaves it as it is."""
    if dtype is None:
        return pairing
    return replace(pairing, pairs=[_rounded(matrix, DTYPES[dtype]) for matrix in pairing.pairs])


def _rounded(matrix: PairedMatrix, dtype: torch.dtype) -> PairedMatrix:
    def load() -> Pair | None:
        pair = matrix.load()
        if pair is None:
            return None
        rounded = pair.base.to(dtype).to(pair.base.dtype)
        if torch.equal(rounded, pair.base):
            return pair  # a base that is stored so loses nothing, and an update of low rank keeps it
        is_double = any(part.dtype == torch.float64 for part in pair.parts)
        return Pair(rounded, pair.dense().to(torch.float64 if is_double else torch.float32))

    return replace(matrix, load=load)
