"""How soon a person can use a report: the largest pages that people open, in a real browser without a network."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from intruders.reports.audit import render_audit
from intruders_research.claims.every_claim import analyse_all
from intruders_research.pages.study_page import render_study
from tests.made_up import made_up_audit
from tests.reports.browsing import chromium, opened
from tests.research.pages.made_up_study import made_up_study

TARGET_SECONDS = 2.0
REPEATS = 3
_READY = "performance.getEntriesByType('navigation')[0].domInteractive / 1000"


@dataclass(frozen=True)
class PageTime:
    """One report, and the time from asking for it until it answers to clicks."""

    label: str
    page_bytes: int
    seconds: float  # the fastest: whatever else the machine does is not the page's doing


def page_times(repeats: int = REPEATS) -> Iterator[PageTime]:
    """Every page in turn; none where there is no browser."""
    with tempfile.TemporaryDirectory() as place:
        pages = _pages(Path(place))
        try:
            with chromium() as browser:
                for label, page in pages.items():
                    yield PageTime(label, page.stat().st_size, min(_seconds(browser, page, repeats)))
        except pytest.skip.Exception as missing:
            print(f"no page is timed: {missing}")


def _pages(place: Path) -> dict[str, Path]:
    audit = made_up_audit(32, width=4096, intruder_rate=0.2, base="llama-2-7b", tuned="runs/r1")
    (place / "audit.html").write_text(render_audit(audit), encoding="utf-8")
    study = made_up_study(place / "study")
    (place / "study.html").write_text(render_study(study, analyse_all(study)), encoding="utf-8")
    return {
        f"audit of Llama-2-7B, {len(audit.matrices)} matrices": place / "audit.html",
        f"study of {len(study.runs)} runs": place / "study.html",
    }


def _seconds(browser: object, page: Path, repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        with opened(browser, page) as shown:
            yield float(shown.evaluate(_READY))
