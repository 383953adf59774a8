"""A remedy that keeps a share of every update."""

from dataclasses import dataclass

from intruders.mitigation.remedies.remedy import Position, ShareRemedy
from intruders.settings import setting


@dataclass(frozen=True)
class Halve(ShareRemedy):
    """``W' = W0 + kept * D`` with the same share in every matrix."""

    name = "halve"
    strength = "kept"
    source = "an example"

    kept: float = setting(0.5, "Share of every update that stays, 0 to 1.", least=0, most=1)

    def share(self, position: Position) -> float:
        """Return the share, wherever the matrix is."""
        return self.kept

    def sentence(self, vectors: int) -> str:
        """Return what was done in words."""
        return f"updates scaled to {self.kept:g} of their size"
