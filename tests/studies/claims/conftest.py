"""What every analysis finds where the claims are planted, absent or reversed."""

from __future__ import annotations

import pytest

from intruders.studies.claims.every_claim import analyse_all
from intruders.studies.claims.shared.claim import Finding
from tests.studies.claims.whole_study import whole_study


@pytest.fixture(scope="session")
def planted() -> dict[float, dict[str, Finding]]:
    return {
        effect: {finding.name: finding for finding in analyse_all(whole_study(effect))}
        for effect in (1.0, 0.0, -1.0)
    }
