"""The critical scales that `intruders scale --json` wrote, beside the audit of the same update."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..charts.chart import Axis, Chart, Rule, Series, numbers
from ..errors import ResultFileError, SettingError
from ..system.files import read_bytes
from .audit_result import Audit
from .critical_scales_result import SCHEMA

SCALE_NAME = "scale.json"  # beside an audit, it is looked for under this name


@dataclass(frozen=True)
class Critical:
    """Of one matrix, as multiples of the update as it is."""

    measured: float  # infinite where no scale up to `searched` has an intruder
    predicted: float  # from the base's spectrum; infinite where there is none
    searched: float


@dataclass(frozen=True)
class CriticalScalesFile:
    """What a file of critical scales says."""

    base_source: str
    tuned_source: str
    k: int
    epsilon: float
    target: int
    largest: float  # the largest scale with at most `target` intruders in the whole model
    matrices: dict[str, Critical]

    def payload(self) -> dict[str, Any]:
        """Plain JSON values for the page; an infinite scale is null."""
        return {
            "matrices": {
                name: numbers([one.measured, one.predicted, one.searched])
                for name, one in self.matrices.items()
            },
            "figure": self.chart().payload(),
        }

    def chart(self) -> Chart:
        """Predicted against measured, a point a matrix that has both."""
        known = {
            name: one
            for name, one in self.matrices.items()
            if 0 < one.measured < math.inf and 0 < one.predicted < math.inf
        }
        return Chart(
            "critical-scales",
            "Critical scale, predicted and measured",
            Axis("predicted_scale", "predicted from the base's spectrum", log=True),
            Axis("measured_scale", "measured", log=True),
            [
                Series(
                    "matrix",
                    [one.predicted for one in known.values()],
                    [one.measured for one in known.values()],
                    notes=list(known),
                    in_legend=False,
                )
            ],
            [Rule("diagonal"), Rule("y", 1.0, "today's scale")],
        )


def load_scales(path: str | os.PathLike[str]) -> CriticalScalesFile:
    """The critical scales in `path`. ResultFileError for a file that is none, or of a newer version."""
    try:
        document = json.loads(read_bytes(path))
        if not isinstance(document["schema"], int) or document["schema"] > SCHEMA:
            raise ResultFileError(
                f"'{path}' has schema {document['schema']!r}, and this version of intruders reads up to {SCHEMA}"
            )
        settings = document["settings"]
        return CriticalScalesFile(
            base_source=str(document["base"]["source"]),
            tuned_source=str(document["tuned"]["source"]),
            k=int(settings["k"]),
            epsilon=float(settings["epsilon"]),
            target=int(settings["target"]),
            largest=_number(document["largest_scale"]),
            matrices={
                str(one["name"]): Critical(
                    _number(one["measured"]), _number(one["predicted"]), _number(one["searched"])
                )
                for one in document["matrices"]
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ResultFileError(
            f"'{path}' holds no critical scales; give a file that `intruders scale --json` wrote"
        ) from error


def scales_for(audit: Audit, path: str | os.PathLike[str]) -> CriticalScalesFile:
    """The critical scales in `path`; SettingError unless they are of the audit's matrices, k and epsilon."""
    scales = load_scales(path)
    if (scales.k, scales.epsilon) != (audit.k, audit.epsilon):
        raise SettingError(
            f"'{path}' was made with k = {scales.k} and epsilon = {scales.epsilon:g}, and the audit with "
            f"k = {audit.k} and epsilon = {audit.epsilon:g}; make it again with the audit's"
        )
    unknown = sorted(scales.matrices.keys() - {matrix.name for matrix in audit.matrices})
    if unknown or not scales.matrices:
        raise SettingError(
            f"'{path}' has critical scales of {scales.tuned_source!r}, and the audit is of {audit.tuned_source!r}"
            + (f": there is no {unknown[0]!r} in it" if unknown else ", without any matrix")
        )
    return scales


def scales_beside(audit: Audit, folder: Path) -> CriticalScalesFile | None:
    """Those of scale.json in the audit's folder, if it is of the same update and settings."""
    file = folder / SCALE_NAME
    if not file.is_file():
        return None
    try:
        scales = scales_for(audit, file)
    except SettingError:
        return None
    same = (scales.base_source, scales.tuned_source) == (audit.base_source, audit.tuned_source)
    return scales if same else None


def _number(value: Any) -> float:
    """JSON has no infinity: null stands for it."""
    return math.inf if value is None else float(value)
