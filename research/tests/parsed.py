"""Studies as research reads them."""

from __future__ import annotations

from typing import Any

from intruders.studies.study import Study
from intruders_research.read_study import with_claims
from tests.studies import tiny_study


def parsed(document: dict[str, Any]) -> Study:
    """The study that a document describes, with what it says of claims checked."""
    return with_claims(tiny_study.parsed(document), "study 'file.yaml'")
