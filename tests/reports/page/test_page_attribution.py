"""The report of an attribution, used in a browser: what is folded on the screen and open on paper."""

from typing import Any

import pytest

from intruders.reports.attribute import render_attribution
from tests.reports.browsing import serious_faults
from tests.reports.made_up_attribution import made_up_attribution

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report() -> str:
    return render_attribution(made_up_attribution())


def shown_tables(page: Any) -> list[bool]:
    """Of the tables by kind, layer and matrix."""
    seen: list[bool] = page.evaluate(
        "[...document.querySelectorAll('table')].map((table) => table.checkVisibility())"
    )
    return seen


def test_paper_has_the_tables_that_the_window_folds(page: Any) -> None:
    """The one that a person opened stays so, and a second look at the paper folds nothing for good."""
    assert shown_tables(page) == [True, False, False]
    page.locator("summary", has_text="3 layers").click()
    for _ in range(2):
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown_tables(page) == [True, True, True]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown_tables(page) == [True, True, False]
    page.locator("summary", has_text="3 layers").click()
    assert serious_faults(page) == []
