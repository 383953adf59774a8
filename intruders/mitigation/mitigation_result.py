"""What a mitigation did, as records: the content of ``intruders.json``."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..audits.result.audit_result import Audit
from ..system.plain_values import from_plain, plain
from ..system.result_protocol import JsonResult
from ..system.versions import installed_versions
from .remedies.remedy_table import TOP


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
    rank_after: int | None = None  # None in a checkpoint
    relative_error: float = 0.0  # of the written update, in the Frobenius norm, from cutting its rank
    exists: bool = True  # whether there is such a control of the matrix; one without it stays as it was


@dataclass(frozen=True)
class UsedRemedy:
    """The remedy of a mitigation, without the numbers that it changed weights by."""

    name: str
    scale: float | None  # the intruder scale; None of a remedy that scales no intruders
    settings: Mapping[str, Any]
    sentence: str  # what was done


@dataclass(frozen=True)
class Mitigation(JsonResult):
    """A mitigation or one of its controls, with the audits before and after; :func:`intruders.mitigate` returns it.

    Attributes:
      base_source: the base, as it was given or named.
      tuned_source: the tuned model.
      out: the folder of the mitigated model; None in memory.
      form: "adapter" or "checkpoint".
      remedy: the remedy and its strength.
      rank: the rank of the mitigated adapter, as it was asked for.
      matrices: what was changed in each matrix, with relative errors of a cut.
      before: the audit of the tuned model.
      after: the audit of the mitigated one; None when it was not asked for.
      cut: relative errors of modules without intruders, if their updates were cut too.
      seconds: the time it took.
      versions: versions of the packages.
    """

    what = "the record of a mitigation"
    written_by = "intruders mitigate"
    file_name: ClassVar[str] = "intruders.json"

    base_source: str
    tuned_source: str
    out: str | None
    form: str
    remedy: UsedRemedy
    rank: int | str | None
    matrices: list[MitigatedMatrix] = field(repr=False)
    before: Audit = field(repr=False)
    after: Audit | None = field(repr=False)
    cut: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    @property
    def scale(self) -> float | None:
        """The intruder scale; None of a remedy that scales no intruders."""
        return self.remedy.scale

    @property
    def control(self) -> str | None:
        """ "intruders", or the control; None for another remedy."""
        return None if self.scale is None else self.remedy.name

    @property
    def wanted(self) -> int:
        """The number of intruders that it scales or puts something in the place of; 0 of another remedy."""
        counts = [] if self.scale is None else [matrix.intruders for matrix in self.matrices]
        return sum(min(1, count) if self.remedy.settings.get("which") == TOP else count for count in counts)

    @property
    def largest_error(self) -> float:
        """The largest relative Frobenius error that cutting the rank of an update cost."""
        return max([matrix.relative_error for matrix in self.matrices] + list(self.cut.values()), default=0.0)

    @property
    def norm_left(self) -> float:
        """``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` over the changed matrices; 1 where there are none."""
        return norm_left(
            (matrix.update_norm_before for matrix in self.matrices),
            (matrix.update_norm_after for matrix in self.matrices),
        )

    def in_card(self) -> list[str]:
        """Return its lines of the model card."""
        settings = ", ".join(f"{name} {value}" for name, value in self.remedy.settings.items())
        after = "" if self.after is None else f", {self.after.intruders:,} after"
        return [
            f"- `{self.remedy.name}`{f' ({settings})' if settings else ''}: {self.remedy.sentence}",
            f"- norm of the update: {self.norm_left:.4g} of the tuned model's",
            f"- intruders: {self.before.intruders:,} before{after}",
        ]

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values; the audits have their own schema."""
        settings = dict(self.remedy.settings)
        return {
            **self.head(),
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
                "sentence": self.remedy.sentence,
            },
            "totals": {
                "matrices": len(self.matrices),
                "intruders_before": self.before.intruders,
                "intruders_after": None if self.after is None else self.after.intruders,
                "largest_relative_error": self.largest_error,
                "seconds": self.seconds,
            },
            "versions": dict(self.versions),
            "matrices": plain(self.matrices),
            "cut": self.cut,
            "before": self.before.to_document(),
            "after": None if self.after is None else self.after.to_document(),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Mitigation":
        """Make it from its document, which does not say where the model was written."""
        intervention = document["intervention"]
        remedy, after = intervention["remedy"], document["after"]
        return cls(
            base_source=document["base"]["source"],
            tuned_source=document["tuned"]["source"],
            out=None,
            form=document["form"],
            remedy=UsedRemedy(
                remedy,
                intervention["scale"],
                intervention["settings"],
                intervention.get("sentence", f"remedy {remedy}"),
            ),
            rank=intervention["rank"],
            matrices=from_plain(list[MitigatedMatrix], document["matrices"]),
            before=Audit.from_document(document["before"]),
            after=None if after is None else Audit.from_document(after),
            cut=document["cut"],
            seconds=document["totals"]["seconds"],
            versions=document["versions"],
        )


def norm_left(before: Iterable[float], after: Iterable[float]) -> float:
    """Return ``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` from the norms by matrix; 1 without an update."""
    whole = math.fsum(norm**2 for norm in before)
    return math.sqrt(math.fsum(norm**2 for norm in after) / whole) if whole > 0 else 1.0
