"""Weight interpolation (WiSE-FT; Wortsman et al. 2021, arXiv 2109.01903)."""

from __future__ import annotations

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
    strengths = (0.8, 0.6, 0.5, 0.4, 0.2)
    source = "WiSE-FT, arXiv 2109.01903"

    alpha: float = setting(0.5, "Share of every update that stays, 0 to 1.", least=0, most=1)

    @property
    def changes_nothing(self) -> bool:
        return self.alpha == 1

    def share(self, position: Position) -> float:
        return self.alpha

    def sentence(self, vectors: int) -> str:
        return f"interpolated: every update times {self.alpha:g}"
