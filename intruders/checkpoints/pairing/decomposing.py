"""Adapters whose weights cost a full decomposition each: how long that will take, said before it starts."""

from __future__ import annotations

import warnings

from ..adapters.adapter import Adapter
from .pairing import PairedMatrix

# A full decomposition of 4096 x 4096 takes about 11 seconds on two cores.
_SECONDS = 11 / 4096**3
_WORTH_SAYING = 60  # seconds


def warn_of_decompositions(adapter: Adapter, pairs: list[PairedMatrix]) -> None:
    """Warn if making the weights of these pairs will take minutes, as PEFT itself takes each time it loads them."""
    seconds = _SECONDS * sum(m * n * min(m, n) for m, n in (pair.shape for pair in pairs))
    if adapter.decomposes and seconds > _WORTH_SAYING:
        warnings.warn(
            f"the adapter '{adapter.source}' ({adapter.peft_type}) decomposes each of its {len(pairs)} matrices in "
            f"full, as PEFT does when it loads it: about {seconds / 60:.0f} minutes on two cores beside the audit",
            stacklevel=2,
        )
