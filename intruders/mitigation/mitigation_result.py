"""What a mitigation did, as records: the content of ``intruders.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..audits.result.audit_result import Audit, to_document
from ..system.versions import installed_versions
from ..version import __version__
from .remedies.remedy import Remedy

SCHEMA = 1


@dataclass(frozen=True)
class MitigatedMatrix:
    """The change of one matrix."""

    name: str
    shape: tuple[int, int]
    intruders: int
    scaled: list[int]  # places of the scaled vectors, in the descending order of W (control "update": of D)
    singular_values: list[float]  # of those
    update_norm_before: float  # ||D||_F
    update_norm_after: float  # ||W' - W0||_F
    rank_before: int | None  # of the update, where it came as factors
    rank_after: int | None  # None in a checkpoint
    relative_error: float  # of the written update, in the Frobenius norm, from cutting its rank
    exists: bool = True  # whether there is such a control of the matrix; one without it stays as it was

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "shape": list(self.shape)}

    def after_cut(self, ranks: Mapping[str, int], errors: Mapping[str, float]) -> MitigatedMatrix:
        """The same with what writing did to its rank."""
        return replace(self, rank_after=ranks.get(self.name), relative_error=errors.get(self.name, 0.0))


@dataclass(frozen=True)
class Mitigation:
    """A mitigation or one of its controls, with the audits before and after; :func:`intruders.mitigate` returns it."""

    base_source: str
    tuned_source: str
    out: str | None  # None in memory
    form: str  # "adapter" or "checkpoint"
    remedy: Remedy
    rank: int | str | None
    matrices: list[MitigatedMatrix]
    before: Audit = field(repr=False)
    after: Audit | None = field(repr=False)  # None when it was not asked for
    # Relative errors of modules without intruders, if cut too.
    cut: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def scale(self) -> float | None:
        """The intruder scale; None of a remedy that scales no intruders."""
        return self.remedy.intruder_scale

    @property
    def control(self) -> str | None:
        """ "intruders", or the control; None for another remedy."""
        return None if self.scale is None else self.remedy.name

    @property
    def wanted(self) -> int:
        """The number of intruders that it scales or puts something in the place of; 0 of another remedy."""
        return sum(self.remedy.intruders_meant(matrix.intruders) for matrix in self.matrices)

    @property
    def largest_error(self) -> float:
        """The largest relative Frobenius error that cutting the rank of an update cost."""
        return max([matrix.relative_error for matrix in self.matrices] + list(self.cut.values()), default=0.0)

    @property
    def norm_left(self) -> float:
        """``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` over the changed matrices; 1 where there are none."""
        before = math.fsum(matrix.update_norm_before**2 for matrix in self.matrices)
        after = math.fsum(matrix.update_norm_after**2 for matrix in self.matrices)
        return math.sqrt(after / before) if before > 0 else 1.0

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values; the audits in their own schema."""
        settings = self.remedy.recorded_by_name()
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "base": {"source": self.base_source},
            "tuned": {"source": self.tuned_source},
            "form": self.form,
            "intervention": {
                "scale": self.scale,
                "control": self.control,
                "seed": None if self.scale is None else settings["seed"],
                "rank": self.rank,
                "k": self.before.k,
                "epsilon": self.before.epsilon,
                "remedy": self.remedy.name,
                "settings": settings,
            },
            "totals": {
                "matrices": len(self.matrices),
                "intruders_before": self.before.intruders,
                "intruders_after": None if self.after is None else self.after.intruders,
                "largest_relative_error": self.largest_error,
                "seconds": self.seconds,
            },
            "versions": installed_versions(),
            "matrices": [matrix.as_dict() for matrix in self.matrices],
            "cut": self.cut,
            "before": to_document(self.before),
            "after": None if self.after is None else to_document(self.after),
        }

    def to_json(self) -> str:
        """Return the content of ``intruders.json``."""
        return json.dumps(self.to_document(), allow_nan=False, ensure_ascii=False) + "\n"
