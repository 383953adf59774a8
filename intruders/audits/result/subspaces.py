"""How a matrix's leading subspaces moved, and where its update lies, each number beside what chance gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from ...linalg.chance import chance_angle, chance_max_cosine, chance_share
from ...system.plain_values import plain

if TYPE_CHECKING:  # a saved audit is read without torch
    from ...engine.spectral_change import SpectralChange


@dataclass(frozen=True)
class Subspaces:
    """The subspaces of one matrix; NaN for what the audit did not need or what is not defined.

    Chance is what random directions give: tuned leading vectors that have nothing to do with the base's, or an
    update in random directions. Docs: docs/reference/files.md, formulas: intruders/engine/spectral_change.py.
    """

    rotation_left_angle: float  # largest principal angle, degrees
    rotation_left_angle_chance: float
    rotation_left_sine2: float  # mean squared sine of the principal angles
    rotation_left_sine2_chance: float
    rotation_right_angle: float
    rotation_right_angle_chance: float
    rotation_right_sine2: float
    rotation_right_sine2_chance: float
    spectral_drift: float  # relative change of the k leading singular values
    spectral_drift_bound: float  # the most that an update of this norm can cause (Mirsky 1960)
    rho_k: float  # share of the update in the base's k leading left directions
    rho_k_chance: float
    off_principal: float  # share of it outside both the left and the right ones
    off_principal_chance: float
    max_cosine_chance: float  # of a random vector with all left vectors of a base of this shape

    @staticmethod
    def measured(change: SpectralChange) -> list[dict[str, float]]:
        """Return the numbers of each matrix of a batch."""
        columns = {field.name: getattr(change, field.name).tolist() for field in fields(change)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @classmethod
    def of(
        cls,
        change: Mapping[str, float],
        shape: tuple[int, int],
        k: int,
        update_norm: float,
        base_norm: float,
    ) -> Subspaces:
        """Build from what was :meth:`measured`, with the norms of the update and of the base's leading values."""
        m, n = shape
        left_share, right_share = chance_share(k, m), chance_share(k, n)
        return cls(
            rotation_left_angle=change["left_angle"],
            rotation_left_angle_chance=_number(chance_angle(k, m)),
            rotation_left_sine2=change["left_sine2"],
            rotation_left_sine2_chance=1 - left_share,
            rotation_right_angle=change["right_angle"],
            rotation_right_angle_chance=_number(chance_angle(k, n)),
            rotation_right_sine2=change["right_sine2"],
            rotation_right_sine2_chance=1 - right_share,
            spectral_drift=change["drift"],
            spectral_drift_bound=update_norm / base_norm if base_norm > 0 else math.nan,
            rho_k=change["rho"],
            rho_k_chance=left_share,
            off_principal=change["off_principal"],
            off_principal_chance=(1 - left_share) * (1 - right_share),
            max_cosine_chance=chance_max_cosine(m, min(m, n)),
        )

    def __eq__(self, other: object) -> bool:
        # A number that is not known is equal to itself here: NaN is not.
        return isinstance(other, Subspaces) and plain(self) == plain(other)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


@dataclass(frozen=True)
class BesideChance:
    """A number over all matrices of an audit: the median of those that are known, and of what it is read beside."""

    name: str
    value: float
    chance: float


_SHOWN = {
    "rotation, left (mean sin²)": ("rotation_left_sine2", "rotation_left_sine2_chance"),
    "rotation, right (mean sin²)": ("rotation_right_sine2", "rotation_right_sine2_chance"),
    "update in leading left (rho_k)": ("rho_k", "rho_k_chance"),
    "update off principal": ("off_principal", "off_principal_chance"),
}


def medians(subspaces: Sequence[Subspaces]) -> list[BesideChance]:
    """Return the medians over the matrices that have a number. Omit quantities that no matrix has.

    How many have one depends on what was known of the base before the audit, so that it is not shown.
    """
    rows = []
    for name, (measured, chance) in _SHOWN.items():
        known = [matrix for matrix in subspaces if math.isfinite(getattr(matrix, measured))]
        if known:
            value, beside = (median(getattr(matrix, key) for matrix in known) for key in (measured, chance))
            rows.append(BesideChance(name, value, beside))
    return rows


SUBSPACE_COLUMNS = tuple(field.name for field in fields(Subspaces))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
