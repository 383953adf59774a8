"""The page that a test file gives as ``report``, opened once for the file."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.reports.browsing import shown


@pytest.fixture(scope="module")
def kept_page(browser: Any, report: str) -> Iterator[Any]:
    """To open a page takes seconds, so that the tests of what it does share one."""
    with shown(browser, report) as kept:
        yield kept


@pytest.fixture
def page(kept_page: Any) -> Any:
    """The shared page; a file whose tests filter it puts it back first."""
    return kept_page
