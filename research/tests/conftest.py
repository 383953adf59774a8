"""Settings of the whole suite, as those of the package's own tests, and the models and studies that tests share."""

import pytest

from tests.conftest import bert, browser, llama, what_is_loaded_is_not_collected, without_pictures
from tests.research_commands import with_research
from tests.studies.conftest import done, own_cache

__all__ = [
    "bert",
    "browser",
    "done",
    "llama",
    "own_cache",
    "what_is_loaded_is_not_collected",
    "without_pictures",
]


@pytest.fixture(autouse=True)
def commands_of_research(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commands of this package."""
    with_research(monkeypatch)
