"""Critical scales as a result: counted, saved, and read back in one place."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...charts.chart import Axis, Chart, Rule, Series
from ...checkpoints.stored.locate import HubOrigin
from ...errors import SettingError
from ...system.plain_values import plain
from ...system.result_protocol import JsonResult
from ...system.words import number, plural
from ..result.audit_result import Audit

SCALE_NAME = "scale.json"  # the name of the file that is looked for next to an audit


@dataclass(frozen=True)
class MatrixScale:
    """The critical scale of one matrix, as a multiple of the update as it is."""

    name: str
    shape: tuple[int, int]
    measured: float  # infinite where there is no intruder up to ``searched``
    predicted: float  # theta / sigma_1(D), theta from the spectrum of W0 alone; infinite where there is none
    searched: float


@dataclass(frozen=True)
class CriticalScales(JsonResult):
    """The critical scales of a model's matrices, and the largest scale that keeps it to a number of intruders.

    :func:`intruders.critical_scales` returns it, and ``load`` reads a saved one.

    Attributes:
      base_source: the base, as it was given or named.
      tuned_source: the tuned model.
      k: number of leading singular vectors that are examined per matrix.
      epsilon: the threshold of an intruder's max cosine.
      target: the number of intruders that ``largest`` keeps to.
      largest: the largest scale of the complete update at which an audit counts at most ``target`` intruders.
      intruders_at_largest: the number of intruders at that scale.
      matrices: the critical scale of each matrix, predicted and measured.
      seconds: the time it took.
      base_hub: the commits that the base was read from, where it is from the Hub.
      tuned_hub: likewise of the tuned model.
    """

    what = "a file of critical scales"
    written_by = "intruders scale --json"

    base_source: str
    tuned_source: str
    k: int
    epsilon: float
    target: int
    largest: float
    intruders_at_largest: int
    matrices: list[MatrixScale] = field(repr=False)
    seconds: float
    base_hub: tuple[HubOrigin, ...] = ()
    tuned_hub: tuple[HubOrigin, ...] = ()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "CriticalScales":
        base, tuned, largest = document["base"], document["tuned"], document["largest_scale"]
        fields = {
            **document,
            **document["settings"],
            "base_source": base["source"],
            "tuned_source": tuned["source"],
            "largest": math.inf if largest is None else largest,
            "intruders_at_largest": document["intruders_at_largest_scale"],
            # JSON has no infinity: null stands for it.
            "matrices": [
                {key: math.inf if value is None else value for key, value in own.items()}
                for own in document["matrices"]
            ],
            "base_hub": base.get("hub", []),
            "tuned_hub": tuned.get("hub", []),
        }
        return super().from_document(fields)

    @property
    def predicted(self) -> float:
        """The least prediction over the matrices; infinite where there is none."""
        return min((matrix.predicted for matrix in self.matrices), default=math.inf)

    @property
    def search_end(self) -> float:
        """The scale up to which every matrix was searched; infinite without a matrix."""
        return min((matrix.searched for matrix in self.matrices), default=math.inf)

    @property
    def is_at_search_end(self) -> bool:
        """True if ``largest`` is only where the search ended: no scale with more intruders is known."""
        return math.isfinite(self.search_end) and self.largest >= self.search_end

    def up_to_search_end(self) -> str:
        """Say what is known where the search ended first."""
        count = f"at most {plural(self.target, 'intruder')}" if self.target else "no intruder"
        return f"{count} up to {number(self.search_end)} times this update, where the search ended"

    @property
    def within_factor_two(self) -> float:
        """Share of the matrices with a measured scale whose prediction is within a factor of two of it."""
        both = self._with_both()
        near = sum(0.5 <= matrix.predicted / matrix.measured <= 2 for matrix in both)
        return near / len(both) if both else math.nan

    @property
    def rank_correlation(self) -> float:
        """Spearman's between measured and predicted scales, over the matrices that have both."""
        both = self._with_both()
        if len(both) < 2:
            return math.nan
        import pandas as pd

        pairs = pd.DataFrame([(own.measured, own.predicted) for own in both])
        return float(pairs.corr("spearman").to_numpy()[0, 1])

    def to_document(self) -> dict[str, Any]:
        return {
            **self.head(),
            "base": {"source": self.base_source, "hub": plain(self.base_hub)},
            "tuned": {"source": self.tuned_source, "hub": plain(self.tuned_hub)},
            "settings": {"k": self.k, "epsilon": self.epsilon, "target": self.target},
            "largest_scale": plain(self.largest),
            "intruders_at_largest_scale": self.intruders_at_largest,
            "within_factor_two": plain(self.within_factor_two),
            "rank_correlation": plain(self.rank_correlation),
            "seconds": self.seconds,
            "matrices": plain(self.matrices),
        }

    def chart(self) -> Chart:
        """Draw predicted against measured scales, one point per matrix that has both."""
        both = self._with_both()
        return Chart(
            "critical-scales",
            "Critical scale, predicted and measured",
            Axis("predicted_scale", "predicted from both spectra", log=True),
            Axis("measured_scale", "measured", log=True),
            [
                Series(
                    "matrix",
                    [matrix.predicted for matrix in both],
                    [matrix.measured for matrix in both],
                    notes=[matrix.name for matrix in both],
                    in_legend=False,
                )
            ],
            [Rule("diagonal"), Rule("y", 1.0, "scale as trained")],
        )

    def _with_both(self) -> list[MatrixScale]:
        known = [matrix for matrix in self.matrices if 0 < matrix.measured < math.inf]
        return [matrix for matrix in known if 0 < matrix.predicted < math.inf]


def scales_for(audit: Audit, path: str | os.PathLike[str]) -> CriticalScales:
    """Return the critical scales in ``path``; SettingError if their matrices, k or epsilon are not the audit's."""
    scales = CriticalScales.load(path)
    if (scales.k, scales.epsilon) != (audit.k, audit.epsilon):
        raise SettingError(
            f"'{path}' was made with k = {scales.k} and epsilon = {scales.epsilon:g}, and the audit with "
            f"k = {audit.k} and epsilon = {audit.epsilon:g}; make it again with the audit's"
        )
    names = {matrix.name for matrix in audit.matrices}
    unknown = sorted(matrix.name for matrix in scales.matrices if matrix.name not in names)
    if unknown or not scales.matrices:
        raise SettingError(
            f"'{path}' has critical scales of {scales.tuned_source!r}, and the audit is of {audit.tuned_source!r}"
            + (f": it has no {unknown[0]!r}" if unknown else ", without any matrix")
        )
    return scales


def scales_beside(audit: Audit, folder: Path) -> CriticalScales | None:
    """Return the scales of scale.json in the audit's folder; None unless they are of the same update and settings."""
    file = folder / SCALE_NAME
    if not file.is_file():
        return None
    try:
        scales = scales_for(audit, file)
    except SettingError:
        return None
    same = (scales.base_source, scales.tuned_source) == (audit.base_source, audit.tuned_source)
    same = same and _may_be_equal(scales.base_hub, audit.base_hub)
    return scales if same and _may_be_equal(scales.tuned_hub, audit.tuned_hub) else None


def _may_be_equal(ours: tuple[HubOrigin, ...], theirs: tuple[HubOrigin, ...]) -> bool:
    """Return False for the models of one name whose commits are known and differ: a branch of the hub moves."""
    commits = [{(origin.repository, origin.commit) for origin in origins} for origins in (ours, theirs)]
    return not all(commits) or commits[0] == commits[1]
