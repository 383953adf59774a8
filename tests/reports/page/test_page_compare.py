"""The report of several audits side by side, used in a browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.reports.compare_audits import write_comparison_html
from tests.made_up import made_up_audit
from tests.reports.browsing import WINDOWS, range_text, serious_faults, shown, slide

pytestmark = pytest.mark.browser


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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("many")
    for count in (12, 40):
        audits = [
            made_up_audit(2, width=48, k=6, tuned=f"runs/step-{i}", seed=i, intruder_rate=i / count)
            for i in range(count)
        ]
        write_comparison_html(audits, folder / f"{count}.html")
    return {count: folder / f"{count}.html" for count in (12, 40)}


@pytest.mark.parametrize(("count", "window"), [(12, "dark phone"), (40, "light")])
def test_no_two_of_many_audits_look_alike_and_plots_keep_their_height(
    browser: Any, many: dict[int, Path], count: int, window: str
) -> None:
    with shown(browser, many[count], **WINDOWS[window]) as page:
        for plot in ("epsilon-plot", "k-plot", "layers-plot", "rank-plot"):
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
                    bars.flatMap((trace) => trace.marker.colorbar.ticktext), traces[0].hovertemplate,
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
        page.locator("#effective-plot").scroll_into_view_if_needed()
        page.wait_for_selector("#effective-plot .xtick text")
        ticks = page.locator("#effective-plot .xtick text:visible").all_text_contents()
        assert (ticks[0], ticks[-1]) == ("step-0", f"step-{count - 1}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious_faults(page) == []


def test_a_slider_counts_anew_and_leaves_the_similarity_matrices_drawn(page: Any) -> None:
    """They show the same for every k and epsilon, and those of many audits take seconds to draw."""
    page.evaluate("() => { window.drawn = frames.map((frame) => frame.data); }")
    slide(page, "epsilon", 0.01)
    none = page.locator("#similarity-count-0").inner_text()
    slide(page, "epsilon", 0.99)
    assert page.locator("#similarity-count-0").inner_text() != none
    assert page.evaluate("() => frames.every((frame, i) => frame.data === window.drawn[i])")
