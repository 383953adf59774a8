"""The report of several audits side by side, used in a browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.reports.page.html_page import write_comparison_html
from tests.made_up import made_up_audit
from tests.reports.browsing import chromium, serious_faults, shown, slide
from tests.reports.page.test_page_audit import WINDOWS, range_text

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def audits() -> list[Audit]:
    return [
        made_up_audit(30, tuned="runs/lora-r1", rank=1, intruder_rate=0.3),
        made_up_audit(30, tuned="runs/lora-r8", rank=8, intruder_rate=0.1),
        made_up_audit(30, tuned="runs/full", rank=None, intruder_rate=0.0),
    ]


@pytest.fixture(scope="module")
def report(audits: list[Audit], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "compare.html"
    write_comparison_html(audits, path)
    return path


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Any]:
    """To open a page takes seconds, so that the tests of what it does share one."""
    with shown(browser, report) as kept:
        yield kept


def rows(page: Any) -> list[list[str]]:
    cells: list[list[str]] = page.evaluate(
        """[...document.querySelectorAll("#audits tbody tr")].map(
             (row) => [...row.cells].map((cell) => cell.textContent))"""
    )
    return cells


@pytest.mark.parametrize(("k", "epsilon"), [(10, 0.5), (5, 0.35), (10, 0.9)])
def test_counts_are_the_librarys(page: Any, audits: list[Audit], k: int, epsilon: float) -> None:
    slide(page, "epsilon", epsilon)
    slide(page, "k", k)
    assert [row[:4] for row in rows(page)] == [
        ["lora-r1", "adapter", "1", range_text(*audits[0].count(k, epsilon))],
        ["lora-r8", "adapter", "8", range_text(*audits[1].count(k, epsilon))],
        ["full", "checkpoint", "full", range_text(*audits[2].count(k, epsilon))],
    ]
    lines = page.evaluate(
        """document.getElementById("k-plot").data
             .filter((trace) => trace.showlegend !== false)
             .map((trace) => [trace.name, trace.x, trace.y])"""
    )
    for (name, steps, counts), audit in zip(lines, audits, strict=True):
        assert audit.tuned_source.endswith(name)
        assert counts == [audit.count(step, epsilon)[0] for step in steps]


def test_the_similarity_matrices_are_those_of_the_chosen_matrix(page: Any, audits: list[Audit]) -> None:
    page.locator("#choose").select_option(label="model.layers.20.mlp.up_proj.weight")
    drawn = page.evaluate(
        "[...document.querySelectorAll('#similarities .plot')].map((plot) => plot.data[0].z[0])"
    )
    for row, audit in zip(drawn, audits, strict=True):
        expected = audit.matrix("model.layers.20.mlp.up_proj.weight").similarity[0]
        assert row == pytest.approx(list(expected), abs=0.5 / 255 + 1e-6)


def test_a_light_window_does_not_break_it_and_axe_finds_no_serious_fault(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious_faults(page) == []


def test_a_dark_phone_does_not_break_it_and_axe_finds_no_serious_fault(browser: Any, report: Path) -> None:
    with shown(browser, report, **WINDOWS["dark phone"]) as phone:
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious_faults(phone) == []


def test_another_base_is_told(browser: Any, audits: list[Audit], tmp_path: Path) -> None:
    stranger = dataclasses.replace(
        audits[1],
        tuned_source="<i>stranger</i>",
        matrices=[
            dataclasses.replace(m, base_singular_values=[2 * value for value in m.base_singular_values])
            for m in audits[1].matrices[3:]
        ],
    )
    write_comparison_html([audits[0], stranger], tmp_path / "compare.html")
    with shown(browser, tmp_path / "compare.html") as page:
        assert "other singular values" in page.locator(".note").inner_text()
        text = page.locator("main").inner_text()
        assert "<i>stranger</i>" in text
        assert (
            "over the 207 matrices that every audit has. 3 matrices that only some have are not counted."
            in text
        )
