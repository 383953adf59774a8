"""A page in Debian's (or any) Chromium with the network off, which notes whatever goes wrong in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

INSTALL = "pip install '.[test]' and install Chromium (Debian: apt-get install chromium)"


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser: the system's, or the one that `playwright install chromium` brought."""
    api = pytest.importorskip("playwright.sync_api", reason=INSTALL)
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        path = installed or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip(f"no browser: {INSTALL}")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Any]:
    """The file at `path` in a window; fails on leaving if the page complained or asked for anything else."""
    context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: _note_request(complaints, path, request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert complaints == [], complaints


def expect(locator: Any) -> Any:
    """Playwright's assertions that wait; `page.wait_for_function` needs eval, which the page's policy forbids."""
    from playwright.sync_api import expect as assertions

    return assertions(locator)


def _note_request(complaints: list[str], path: Path, url: str) -> None:
    if not url.startswith((path.as_uri(), "data:", "blob:")):
        complaints.append(f"request: {url}")


def serious_faults(page: Any) -> list[str]:
    """What axe-core finds of serious or critical impact, as 'rule: element'."""
    from axe_playwright_python.sync_playwright import Axe

    # What passes is not listed node by node, which takes longer than to look.
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def slide(page: Any, name: str, value: float) -> None:
    """Move a slider as a hand does: to a value, with an input event."""
    page.locator(f"#{name}").evaluate(
        """(slider, value) => {
          slider.value = value;
          slider.dispatchEvent(new Event("input", {bubbles: true}));
        }""",
        str(value),
    )


def click_cell(page: Any, x: int, y: int) -> None:
    """Click the middle of the heat map's cell in column x and row y."""
    page.locator("#layers-plot").scroll_into_view_if_needed()
    left, top = page.evaluate(
        """([x, y]) => {
          const plot = document.getElementById("layers-plot");
          const {xaxis, yaxis} = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + yaxis.l2p(y)];
        }""",
        [x, y],
    )
    page.mouse.move(left - 3, top - 3)
    page.mouse.move(left, top)
    page.wait_for_timeout(150)  # plotly looks where the pointer is at most every 50 ms
    page.mouse.click(left, top)


def column(page: Any, key: str) -> list[str]:
    """The texts of one column of the table of matrices, from the top."""
    cells: list[str] = page.evaluate(
        """(key) => {
          const heads = [...document.querySelectorAll("#table thead th")];
          const at = heads.findIndex((head) => head.dataset.key === key);
          return [...document.querySelectorAll("#table tbody tr")].map((row) => row.cells[at].textContent);
        }""",
        key,
    )
    return cells


def sort_by(page: Any, key: str) -> None:
    page.locator(f'#table th[data-key="{key}"] button').click()
