"""The report of several audits side by side, used in a browser."""

import dataclasses
from typing import Any

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.reports.compare_audits import render_comparison
from tests.made_up import made_up_audit
from tests.reports.browsing import WINDOWS, require_that_it_fits_and_can_be_read, shown

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def audits() -> list[Audit]:
    return [
        made_up_audit(30, tuned="runs/lora-r1", rank=1, intruder_rate=0.3),
        made_up_audit(30, tuned="runs/lora-r8", rank=8, intruder_rate=0.1),
        made_up_audit(30, tuned="runs/full", rank=None, intruder_rate=0.0),
    ]


@pytest.fixture(scope="module")
def report(audits: list[Audit]) -> str:
    return render_comparison(audits)


def test_no_window_breaks_it_and_axe_finds_no_serious_fault(browser: Any, page: Any, report: str) -> None:
    with shown(browser, report, **WINDOWS["dark phone"]) as phone:
        for window in (page, phone):
            require_that_it_fits_and_can_be_read(window)


def test_another_base_is_told(browser: Any, audits: list[Audit]) -> None:
    stranger = dataclasses.replace(
        audits[1],
        tuned_source="<i>stranger</i>",
        matrices=[
            dataclasses.replace(m, base_singular_values=[2 * value for value in m.base_singular_values])
            for m in audits[1].matrices[3:]
        ],
    )
    with shown(browser, render_comparison([audits[0], stranger])) as page:
        assert "other singular values" in page.locator(".note").inner_text()
        text = page.locator("main").inner_text()
        assert "<i>stranger</i>" in text
        assert "over the 207 matrices that every audit has. 3 matrices that only some have are not" in text


@pytest.mark.parametrize(("count", "window"), [(12, "dark phone"), (40, "light")])
def test_many_audits_look_different_and_plots_keep_height(browser: Any, count: int, window: str) -> None:
    audits = [
        made_up_audit(2, width=48, k=6, tuned=f"runs/step-{i}", seed=i, intruder_rate=i / count)
        for i in range(count)
    ]
    with shown(browser, render_comparison(audits), **WINDOWS[window]) as page:
        for plot in ("figure-0", "figure-1", "figure-2", "figure-3"):
            page.locator(f"#{plot}").scroll_into_view_if_needed()
            page.wait_for_function("(id) => document.getElementById(id)._fullLayout", arg=plot)
            looks, height, legend, names, hover = page.evaluate(
                """(id) => {
                  const plot = document.getElementById(id);
                  const traces = plot.data.filter((trace) => trace.name);
                  const bars = plot.data.filter((trace) => trace.marker?.colorbar);
                  return [
                    traces.map(({ line, marker }) =>
                      JSON.stringify([line?.color, line?.dash, marker?.color, marker?.symbol])),
                    plot._fullLayout._size.h, plot._fullLayout.showlegend,
                    bars.flatMap((trace) => trace.marker.colorbar.ticktext), traces[0].text[0],
                  ];
                }""",
                plot,
            )
            assert len(looks) == len(set(looks)) == count
            assert height > 120
            assert legend == (count == 12)
            if count == 40:
                assert (names[0], names[-1]) == ("step-0", "step-39")
                assert "step-0" in hover
        assert ("in the order given" in page.locator("main").inner_text()) == (count == 40)
        page.locator("#figure-4").scroll_into_view_if_needed()
        page.wait_for_selector("#figure-4 .ytick text")
        ticks = page.locator("#figure-4 .ytick text:visible").all_text_contents()
        assert (ticks[0], ticks[-1]) == ("step-0", f"step-{count - 1}")
        require_that_it_fits_and_can_be_read(page)
