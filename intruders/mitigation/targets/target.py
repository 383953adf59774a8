"""Where a mitigation's result goes, and what writing did to it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Written:
    """What cutting ranks did, by the base's names of the matrices."""

    ranks: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative, in the Frobenius norm
