"""What every analysis finds where the claims are planted, absent or reversed."""

from collections.abc import Iterator, Mapping

import pytest

from intruders_research.claim_names import CLAIMS
from intruders_research.claims.shared.claim import Finding
from research.tests.claims.whole_study import finding_of


class Found(Mapping[str, Finding]):
    """The findings by the claim's name, each made when it is first asked for: tests in another process need others."""

    def __init__(self, effect: float) -> None:
        self._effect = effect

    def __getitem__(self, name: str) -> Finding:
        return finding_of(name, self._effect)

    def __iter__(self) -> Iterator[str]:
        return iter(CLAIMS)

    def __len__(self) -> int:
        return len(CLAIMS)


@pytest.fixture(scope="session")
def planted() -> dict[float, Mapping[str, Finding]]:
    return {effect: Found(effect) for effect in (1.0, 0.0, -1.0)}
