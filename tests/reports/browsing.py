"""A page in Debian's (or any) Chromium with the network off, which notes whatever goes wrong in it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

INSTALL = "pip install '.[test]' and install Chromium (Debian: apt-get install chromium)"

# Colours do not depend on the width: two windows show both of each.
WINDOWS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark phone": {"width": 390, "height": 844, "color_scheme": "dark"},
}


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
        _idle.clear()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Any]:
    """The file at `path` in a new window; fails on leaving if it complained or asked for anything else."""
    window = _new_window(browser, width, height, **options)
    window.address = path.as_uri()
    window.page.goto(window.address)
    yield window.page
    window.page.context.close()
    assert window.complaints == [], window.complaints


@contextmanager
def shown(
    browser: Any, html: str, width: int = 1280, height: int = 900, color_scheme: str = "light"
) -> Iterator[Any]:
    """The page of this text, as `opened` does, in a window that an earlier test may have left.

    Chromium takes two seconds to read plotly, and knows it again when it comes from the same address and line.
    Therefore every page is written to one file, with empty lines in front of the script.
    """
    window = _idle.pop() if _idle else _new_window(browser, width, height)
    file = Path(window.folder.name) / "page.html"
    file.write_text(_with_script_at_line(html, 20_000), encoding="utf-8")
    window.address = file.as_uri()
    window.complaints.clear()
    window.page.set_viewport_size({"width": width, "height": height})
    window.page.emulate_media(media="null", color_scheme=color_scheme)
    window.page.goto(window.address)
    yield window.page
    assert window.complaints == [], window.complaints
    _idle.append(window)


@dataclass
class _Window:
    page: Any
    complaints: list[str] = field(default_factory=list)
    address: str = ""
    folder: Any = field(default_factory=tempfile.TemporaryDirectory)  # of its copy, gone with the window

    def note_request(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.complaints.append(f"request: {url}")


_idle: list[_Window] = []


def _new_window(browser: Any, width: int, height: int, **options: Any) -> _Window:
    context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **options)
    window = _Window(context.new_page())
    complaints = window.complaints
    window.page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    window.page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    window.page.on("dialog", lambda box: (complaints.append(f"dialog: {box.message}"), box.dismiss()))
    window.page.on("request", lambda request: window.note_request(request.url))
    return window


def _with_script_at_line(html: str, line: int) -> str:
    """The page with empty lines in front of its data, so that the scripts after them begin at this line."""
    before, data, after = html.partition('<script type="application/json" id="data">')
    lines = (before + data + after.partition("</script>")[0]).count("\n")
    assert lines < line
    return before + "\n" * (line - lines) + data + after


def expect(locator: Any) -> Any:
    """Playwright's assertions that wait; `page.wait_for_function` needs eval, which the page's policy forbids."""
    from playwright.sync_api import expect as assertions

    assertions.set_options(timeout=30_000)  # in ms, as every other action waits
    return assertions(locator)


def serious_faults(page: Any) -> list[str]:
    """What axe-core finds of serious or critical impact, as 'rule: element'."""
    from axe_playwright_python.sync_playwright import Axe

    # A table's rows are alike, and each takes as long as the first. What passes is not listed node by node, which
    # takes longer than to look.
    context = {"exclude": [["tbody tr:nth-child(n + 16)"]]}
    violations = Axe().run(page, context, {"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def require_that_it_fits_and_can_be_read(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert serious_faults(page) == []


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
    """The texts of one column of the table of matrices or of runs, from the top, without hidden rows."""
    cells: list[str] = page.evaluate(
        """(key) => {
          const heads = [...document.querySelectorAll("#table thead th")];
          const at = heads.findIndex((head) => (head.dataset.key ?? head.textContent) === key);
          const rows = [...document.querySelectorAll("#table tbody tr:not(.hidden)")];
          return rows.map((row) => row.cells[at].textContent);
        }""",
        key,
    )
    return cells


def sort_by(page: Any, key: str) -> None:
    page.locator(f'#table th[data-key="{key}"] button').click()


def range_text(at_least: int, at_most: int) -> str:
    """How a page writes a number that is known between bounds."""
    return f"{at_least:,}" if at_least == at_most else f"{at_least:,}–{at_most:,}"
