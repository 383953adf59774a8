"""Critical scales in a terminal: per module type, on one axis with the update scale as trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from ..audits.critical_scales_result import CriticalScales, MatrixScale
from ..charts.text import duration, number, percent, plural, shorten
from ..checkpoints.names import module_paths

_AXIS = 28
_NAMES = 20


def scale_lines(result: CriticalScales) -> list[str]:
    """Return lines of at most 80 columns: the answer, the predictions, and one line per module type."""
    matrices = result.matrices
    count = plural(len(matrices), "matrix", "matrices")
    found = [f"critical scales of {count} (1 = the update as trained)"]
    if result.target == 0:
        found.append(f"largest update scale without intruders: {number(result.largest)}")
    else:
        most = plural(result.target, "intruder")
        there = plural(result.intruders_at_largest, "intruder")
        found.append(f"largest update scale with at most {most}: {number(result.largest)} ({there})")
    known = [matrix for matrix in matrices if math.isfinite(matrix.measured)]
    without = len(matrices) - len(known)
    if without:
        found.append(f"no intruder at any searched scale: {plural(without, 'matrix', 'matrices')}")
    if known:
        found.append(
            f"predicted from the base's spectrum: {percent(result.within_factor_two)} within a factor of two, "
            f"rank correlation {number(result.rank_correlation)}"
        )
        found += ["", *_table(known)]
    found.append(f"({duration(result.seconds)})")
    return found


def _table(known: Sequence[MatrixScale]) -> list[str]:
    kinds: dict[str, list[MatrixScale]] = {}
    for place, matrix in zip(module_paths([matrix.name for matrix in known]), known, strict=True):
        kinds.setdefault(place.kind, []).append(matrix)
    scales = [matrix.measured for matrix in known]
    low, high = min([*scales, 1.0]) / 1.1, max([*scales, 1.0]) * 1.1
    ends = f"{number(low)}".ljust(_AXIS - 6) + f"{number(high)}".rjust(6)
    lines = [f"{'':{_NAMES}}{'lowest':>8}{'median':>8}{'predicted':>11}  {ends}"]
    for kind, members in kinds.items():
        measured = [matrix.measured for matrix in members]
        axis = ["."] * _AXIS
        first, middle = (_column(value, low, high) for value in (min(measured), median(measured)))
        axis[first : middle + 1] = "-" * (middle + 1 - first)
        axis[middle], axis[first] = "o", "<"
        axis[_column(1.0, low, high)] = "|"
        lines.append(
            f"{shorten(kind, _NAMES - 1):{_NAMES}}{number(min(measured)):>8}{number(median(measured)):>8}"
            f"{number(median([matrix.predicted for matrix in members])):>11}  {''.join(axis)}"
        )
    return [*lines, "", "< lowest critical scale of the module type, o median, | 1 = as trained"]


def _column(value: float, low: float, high: float) -> int:
    return min(_AXIS - 1, int(_AXIS * math.log(value / low) / math.log(high / low)))
