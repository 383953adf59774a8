"""Everything that one run of the benchmarks found, as it is written to JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .machine import Machine
from .measure import Row
from .memory import Peak
from .pages import PageTime
from .paper import Check, Estimate
from .peers import Peer


@dataclass(frozen=True)
class Results:
    machine: Machine
    quick: bool
    rows: list[Row]
    peaks: list[Peak]
    pages: list[PageTime]
    peers: list[Peer]
    checks: list[Check]
    estimates: list[Estimate]
    read_rate: float | None  # bytes a second, in thin products with the largest matrix
    seconds: float

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
