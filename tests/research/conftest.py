"""The commands of research, and the studies that its tests share with those of the package."""

import pytest

from tests.research_commands import with_research
from tests.studies.conftest import done, own_cache

__all__ = ["done", "own_cache"]


@pytest.fixture(autouse=True)
def commands_of_research(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commands of this package."""
    with_research(monkeypatch)
