"""Early layers taken back to the base (arXiv 2508.16546)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...settings import setting
from .remedy import Position, ShareRemedy


@dataclass(frozen=True)
class Layers(ShareRemedy):
    """``W' = W0`` in the first ``q L`` of L layers (rounded down), in embeddings and in the output head.

    The paper's share of layers is 0.25.
    """

    name = "layers"
    strength = "quota"
    strengths = (0.25, 0.5, 0.75)
    source = "arXiv 2508.16546"

    quota: float = setting(
        0.25, "Share of the layers, from the first, that return to the base, 0 to 1.", least=0, most=1
    )

    def share(self, position: Position) -> float:
        if position.layer is None:
            return 0.0 if position.is_embedding_or_head else 1.0
        # 0.3 of 10 layers are 3, whatever the product is rounded to.
        return 0.0 if position.layer < math.floor(self.quota * position.layers + 1e-9) else 1.0

    def sentence(self, vectors: int) -> str:
        return f"the first {self.quota:.0%} of the layers, embeddings and head taken back to the base"
