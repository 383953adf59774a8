"""Files that advice is given on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.studies.advice.advise import advise


def topics(source: str | Path, **settings: Any) -> list[str]:
    return [one.topic for one in advise(source, **settings).advice]


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def scale_document(largest: float | None, there: int = 0) -> dict[str, Any]:
    matrices = [MatrixScale("a", (4, 4), 0.4, 0.5, 64), MatrixScale("b", (4, 4), math.inf, math.inf, 64)]
    at = math.inf if largest is None else largest
    return CriticalScales("base", "tuned", 10, 0.5, 0, at, there, matrices, 1.0).to_document()
