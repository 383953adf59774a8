"""Shares of updates by their position in the model.

One for all (WiSE-FT, arXiv 2109.01903), growing with depth (LiNeS, 2410.17146), none in early layers (2508.16546).
"""

import math
from dataclasses import dataclass

from ...settings import setting
from .remedy import Position, ShareRemedy


@dataclass(frozen=True)
class Interpolate(ShareRemedy):
    """``W' = W0 + alpha D`` with one alpha for the whole model: the base at 0, the tuned model at 1.

    The paper looks at 0 to 1 by 0.1, and recommends 0.5 where nothing is known.
    """

    name = "interpolate"
    strength = "alpha"
    nothing_at = 1
    strengths = (0.8, 0.6, 0.5, 0.4, 0.2)
    source = "WiSE-FT, arXiv 2109.01903"
    in_words = "interpolated: every update times {alpha:g}"

    alpha: float = setting(0.5, "Share of every update that stays, 0 to 1.", least=0, most=1)

    def share(self, position: Position) -> float:
        return self.alpha


@dataclass(frozen=True)
class Lines(ShareRemedy):
    """``W' = W0 + (alpha + (1 - alpha) l / (L - 1)) D`` in layer l of L, and ``W0 + alpha D`` outside of the layers.

    The last layer keeps its whole update. The paper chooses alpha by validation; 0.5 is this package's default.
    """

    name = "lines"
    strength = "alpha"
    nothing_at = 1
    strengths = (0.75, 0.5, 0.25, 0.0)
    source = "LiNeS, arXiv 2410.17146"
    in_words = "updates times {alpha:g} in the first layer, growing to 1 in the last"

    alpha: float = setting(
        0.5,
        "Share of the first layer's update that stays, 0 to 1; the last layer keeps all.",
        least=0,
        most=1,
    )

    def share(self, position: Position) -> float:
        if position.layer is None:
            return self.alpha
        if position.layers == 1:
            return 1.0  # the first layer is the last
        return self.alpha + (1 - self.alpha) * position.layer / (position.layers - 1)


@dataclass(frozen=True)
class Layers(ShareRemedy):
    """``W' = W0`` in the first ``q L`` of L layers (rounded down), in embeddings and in the output head.

    The paper's share of layers is 0.25.
    """

    name = "layers"
    strength = "quota"
    strengths = (0.25, 0.5, 0.75)
    source = "arXiv 2508.16546"
    in_words = "the first {quota:.0%} of the layers, embeddings and head taken back to the base"

    quota: float = setting(
        0.25, "Share of the layers, from the first, that return to the base, 0 to 1.", least=0, most=1
    )

    def share(self, position: Position) -> float:
        if position.layer is None:
            return 0.0 if position.is_embedding_or_head else 1.0
        # 0.3 of 10 layers are 3, whatever the product is rounded to.
        return 0.0 if position.layer < math.floor(self.quota * position.layers + 1e-9) else 1.0
