"""The remedy `doses` in a comparison: learned once on the half that chooses, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import IntrudersError
from ...measures.kept_outcomes import KeptOutcomes
from ...mitigation.remedies.doses import Doses


def kept_doses(kept: KeptOutcomes, unit: Mapping[str, Any], learn: Callable[[], Doses]) -> Doses | str:
    """Return the doses, learned now or before, or the reason why they are missing."""
    record = kept.get_plain(unit)
    if record is not None:
        return Doses(doses=record["doses"], elsewhere=record["elsewhere"])
    try:
        learned = learn()
    except IntrudersError as error:
        return str(error)
    kept.put_plain(unit, {"doses": dict(learned.doses or {}), "elsewhere": learned.elsewhere})
    return learned
