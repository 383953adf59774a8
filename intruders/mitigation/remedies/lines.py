"""Updates that grow with depth (LiNeS; Wang et al. 2024, arXiv 2410.17146)."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import setting
from .remedy import Position, ShareRemedy


@dataclass(frozen=True)
class Lines(ShareRemedy):
    """``W' = W0 + (alpha + (1 - alpha) l / (L - 1)) D`` in layer l of L, and ``W0 + alpha D`` outside of the layers.

    The last layer keeps its whole update. The paper chooses alpha by validation; 0.5 is this package's default.
    """

    name = "lines"
    strength = "alpha"
    strengths = (0.75, 0.5, 0.25, 0.0)
    source = "LiNeS, arXiv 2410.17146"

    alpha: float = setting(
        0.5,
        "Share of the first layer's update that stays, 0 to 1; the last layer keeps all.",
        least=0,
        most=1,
    )

    @property
    def changes_nothing(self) -> bool:
        return self.alpha == 1

    def share(self, position: Position) -> float:
        if position.layer is None:
            return self.alpha
        if position.layers == 1:
            return 1.0  # the first layer is the last
        return self.alpha + (1 - self.alpha) * position.layer / (position.layers - 1)

    def sentence(self, vectors: int) -> str:
        return f"updates times {self.alpha:g} in the first layer, growing to 1 in the last"
