"""The analyses of a study's tables, and their verdicts as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..detection.files import write_atomically
from .analyse import analyse_all
from .findings import Effect, Finding
from .results import SCHEMA
from .tables import load_results


def conclude(folder: Path, names: Sequence[str]) -> list[Finding]:
    """The findings of the analyses ``names``, also written to ``findings.json`` in the study's folder."""
    findings = analyse_all(load_results(folder), names)
    document = {"schema": SCHEMA, "findings": [_plain(finding) for finding in findings]}
    content = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "findings.json", content.encode())
    return findings


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding without its tables, which follow from the study's."""
    return {
        "name": finding.name,
        "question": finding.question,
        "claim": finding.claim,
        "verdict": finding.verdict,
        "shown": finding.shown,
        "effects": [_effect(effect) for effect in finding.effects],
        "seeds": int(finding.seeds),
        "runs": int(finding.runs),
        "notes": list(finding.notes),
    }


def _effect(effect: Effect) -> dict[str, Any]:
    """JSON has no infinity, which an end has where one seed gives no interval."""
    values = {"estimate": effect.estimate, "low": effect.low, "high": effect.high}
    return {"name": effect.name} | {
        key: float(value) if math.isfinite(value) else None for key, value in values.items()
    }
