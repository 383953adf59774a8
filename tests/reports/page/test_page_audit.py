"""The report of one audit, used in a browser as a person would."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.summary import by_kind
from intruders.reports.audit import render_audit
from tests.made_up import BERT, made_up_audit, made_up_matrix
from tests.reports.browsing import (
    WINDOWS,
    click_cell,
    column,
    expect,
    opened,
    range_text,
    require_that_it_fits_and_can_be_read,
    serious_faults,
    shown,
    slide,
    sort_by,
)

pytestmark = pytest.mark.browser

SEVEN_B = made_up_audit(32, width=4096, intruder_rate=0.2, base="meta-llama/Llama-2-7b-hf", tuned="runs/r1")


@pytest.fixture(scope="module")
def report() -> str:
    return render_audit(SEVEN_B)


@pytest.fixture
def page(kept_page: Any) -> Any:
    """The shared page with its sliders and filters as they are at first."""
    slide(kept_page, "epsilon", SEVEN_B.epsilon)
    slide(kept_page, "k", SEVEN_B.k)
    kept_page.locator("#filter").fill("")
    kept_page.locator("#module").select_option("")
    kept_page.locator("#affected").uncheck()
    return kept_page


def selected(page: Any) -> str:
    name: str = page.locator("#facts dd").first.text_content()
    return name


@pytest.mark.parametrize(("k", "epsilon"), [(10, 0.5), (10, 0.3), (4, 0.5), (7, 0.85), (1, 0.01), (3, 1.0)])
def test_sliders_count_as_the_library_does(page: Any, k: int, epsilon: float) -> None:
    slide(page, "epsilon", epsilon)
    slide(page, "k", k)
    said = f"{range_text(*SEVEN_B.count(k, epsilon))} intruder"
    assert page.locator("#answer").inner_text().startswith(said)
    for kind in by_kind(SEVEN_B.matrices):
        inside = [m for m in SEVEN_B.matrices if m.name.split(".")[-2] == kind.kind]
        expected = range_text(*dataclasses.replace(SEVEN_B, matrices=inside).count(k, epsilon))
        row = page.locator("#kinds tbody tr", has=page.locator(f'[data-module="{kind.kind}"]'))
        assert row.locator('[data-cell="intruders"]').inner_text() == expected
    counts = dict(zip(column(page, "name"), column(page, "intruders"), strict=True))
    for matrix in SEVEN_B.matrices:
        one = dataclasses.replace(SEVEN_B, matrices=[matrix])
        assert counts[matrix.name] == range_text(*one.count(k, epsilon))


SORTS: dict[str, Callable[[Any], Any]] = {
    "name": lambda matrix: matrix.name,
    "energy": lambda matrix: matrix.intruder_energy_share,
    "frobenius": lambda matrix: matrix.update.frobenius,
    "cosine": lambda matrix: min(vector.max_cosine[0] for vector in matrix.vectors),
}


@pytest.mark.parametrize("key", SORTS)
def test_the_table_sorts_both_ways(page: Any, key: str) -> None:
    by_name = {matrix.name: matrix for matrix in SEVEN_B.matrices}
    head = page.locator(f'#table th[data-key="{key}"]')
    for _ in range(2):
        sort_by(page, key)
        values = [SORTS[key](by_name[name]) for name in column(page, "name")]
        # what the page sorts by has six digits
        rounded = [value if isinstance(value, str) else float(f"{value:.5g}") for value in values]
        assert rounded == sorted(rounded, reverse=head.get_attribute("aria-sort") == "descending")
        assert len(values) == 224
    assert head.get_attribute("aria-sort") == ("descending" if key == "name" else "ascending")


def test_filters_narrow_the_table(page: Any) -> None:
    page.locator("#filter").fill("LAYERS.7.")
    assert len(column(page, "name")) == 7
    page.locator("#filter").fill("")
    page.locator("#module").select_option("down_proj")
    assert set(column(page, "module")) == {"down_proj"}
    page.locator("#affected").check()
    expected = [m.name for m in SEVEN_B.matrices if "down_proj" in m.name and m.intruders]
    assert sorted(column(page, "name")) == sorted(expected)
    assert page.locator("#shown").inner_text() == f"{len(expected)} of 224 matrices"


def test_a_click_on_the_map_shows_that_matrix(page: Any) -> None:
    kinds = [kind.kind for kind in by_kind(SEVEN_B.matrices)]
    for layer, kind in [(3, "v_proj"), (31, "down_proj"), (0, "q_proj")]:
        click_cell(page, layer, kinds.index(kind))
        expect(page.locator("#facts dd").first).to_contain_text(f"layers.{layer}.")
        name = next(m.name for m in SEVEN_B.matrices if f"layers.{layer}." in m.name and kind in m.name)
        assert selected(page) == name
        assert page.locator('#table tr[aria-selected="true"] td').first.inner_text() == name
        assert name in page.locator("#similarity-plot").get_attribute("aria-label")


def test_a_matrix_can_be_chosen_by_name(page: Any) -> None:
    page.locator("#choose").select_option(label="model.layers.12.self_attn.o_proj.weight")
    assert selected(page) == "model.layers.12.self_attn.o_proj.weight"
    page.locator("#table tbody button").nth(5).press("Enter")
    assert selected(page) == column(page, "name")[5]


def test_the_figures_hold_the_audits_numbers(page: Any) -> None:
    matrix = SEVEN_B.matrix("model.layers.30.mlp.down_proj.weight")
    page.locator("#choose").select_option(label=matrix.name)
    for plot in ("layers", "cosine", "values", "similarity", "curve"):
        assert page.locator(f"#{plot}-plot .main-svg").count() > 0
    drawn = page.evaluate("document.getElementById('similarity-plot').data[0].z")
    for drawn_row, row in zip(drawn, matrix.similarity, strict=True):
        assert drawn_row == pytest.approx(list(row), abs=0.5 / 255 + 1e-6)
    points = page.evaluate(
        """document.getElementById("cosine-plot").data.map(
             (trace) => [trace.name, trace.x, trace.y, trace.y.map((y, i) => y + trace.error_y.array[i])])"""
    )
    seen = {
        int(x): (lower, upper, name == "intruder")
        for name, xs, lowers, uppers in points
        for x, lower, upper in zip(xs, lowers, uppers, strict=True)
    }
    for vector in matrix.vectors:
        lower, upper, intruder = seen[vector.index + 1]
        assert (lower, upper) == pytest.approx(vector.max_cosine)
        assert intruder == vector.intruder


def test_hovering_tells_name_counts_and_certificates(page: Any) -> None:
    page.locator("#layers-plot").scroll_into_view_if_needed()
    box = page.locator("#layers-plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.wait_for_selector("#layers-plot .hovertext")
    text = page.locator("#layers-plot .hovertext").text_content()
    first = SEVEN_B.matrices[0]
    assert first.name in text
    assert f"{first.intruders} intruder" in text
    assert "overlap" in text


def test_no_window_breaks_it_and_axe_finds_no_serious_fault(browser: Any, page: Any, report: str) -> None:
    page.mouse.move(0, 0)  # away from what the tests before pointed at
    with shown(browser, report, **WINDOWS["dark phone"]) as phone:
        for window in (page, phone):
            require_that_it_fits_and_can_be_read(window)
            for plot in window.locator(".plot").all():
                box, frame = plot.bounding_box(), plot.locator(".main-svg").first.bounding_box()
                assert frame["width"] <= box["width"] + 1


def test_colours_follow_the_system_until_told_otherwise(browser: Any, report: str) -> None:
    def colours(page: Any) -> list[str]:
        got: list[str] = page.evaluate(
            """[getComputedStyle(document.body).backgroundColor,
                document.getElementById("curve-plot")._fullLayout.font.color]"""
        )
        return got

    with shown(browser, report, color_scheme="dark") as page:
        dark = colours(page)
        assert page.locator("#theme").inner_text() == "Colors: system"
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == "Colors: light"
        light = colours(page)
        assert light[0] == "rgb(255, 255, 255)"
        assert dark[0] != light[0]
        assert dark[1] != light[1]
        page.locator("#theme").click()
        assert colours(page) == dark
        page.locator("#theme").click()
        page.emulate_media(color_scheme="light")
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        assert colours(page) == light


def test_paper_is_light_and_figures_fit_it(browser: Any, report: str) -> None:
    with shown(browser, report, color_scheme="dark") as page:
        before = page.locator("#layers-plot .main-svg").first.bounding_box()["width"]
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("#layers-plot .main-svg").first.bounding_box()["width"] <= 688  # 182 mm
        assert not page.locator("#theme").is_visible()
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        expect(page.locator("#layers-plot .main-svg").first).to_have_js_property("clientWidth", before)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_without_javascript_the_result_is_still_there(browser: Any, report: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(report, encoding="utf-8")
    with opened(browser, tmp_path / "report.html", java_script_enabled=False) as page:
        text = page.locator("body").inner_text()
        assert f"Fine-tuning left {SEVEN_B.intruders:,} intruders in" in text
        assert "down_proj" in text
        assert "need JavaScript" in text


EVIL = (
    "<img src=x onerror=alert(1)>.layers.0.</script><script>alert(2)</script><!--<script><b>q</b>&amp;.weight"
)


def test_names_that_contain_html_are_shown_as_text(browser: Any) -> None:
    import numpy as np

    matrix = made_up_matrix(EVIL, (64, 64), np.random.default_rng(0), intruder_rate=0.5)
    audit = dataclasses.replace(
        SEVEN_B, matrices=[matrix], base_source=EVIL, tuned_source=f"<b>{EVIL}", settings={"x": EVIL}
    )
    with shown(browser, render_audit(audit)) as page:
        assert selected(page) == EVIL
        assert column(page, "name") == [EVIL]
        assert EVIL in page.title()
        assert page.locator("main").inner_text().count(EVIL) >= 4
        assert page.locator("main img, main script, main b").count() == 0
        drawn = page.locator("#layers-plot .nsewdrag").first
        drawn.scroll_into_view_if_needed()  # the mouse reaches what is in the window
        box = drawn.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.wait_for_selector("#layers-plot .hovertext")
        assert "<img src=x onerror=alert(1)>" in page.locator("#layers-plot .hovertext").text_content()
        assert serious_faults(page) == []


ODD: dict[str, Audit] = {
    "nothing audited": dataclasses.replace(SEVEN_B, matrices=[]),
    "nothing skipped": dataclasses.replace(made_up_audit(2), skipped=[]),
    "no intruders": made_up_audit(4, intruder_rate=0),
    "one matrix": made_up_audit(1, {"fc": (1.0, 1.0)}, width=4),
    "no layers": dataclasses.replace(
        SEVEN_B, matrices=[dataclasses.replace(SEVEN_B.matrices[0], name="lm_head.weight")]
    ),
    "two stacks": dataclasses.replace(
        SEVEN_B,
        matrices=[
            m
            for prefix in ("encoder", "decoder")
            for m in made_up_audit(6, BERT, prefix=f"{prefix}.block").matrices
        ],
    ),
    "zero base": dataclasses.replace(
        SEVEN_B, matrices=[dataclasses.replace(SEVEN_B.matrices[0], base_singular_values=[0.0])]
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_audits_open_too(browser: Any, name: str) -> None:
    with shown(browser, render_audit(ODD[name])) as page:
        assert len(page.locator("h1").inner_text()) > 10
        if ODD[name].matrices:
            assert len(column(page, "name")) == min(300, len(ODD[name].matrices))
        assert serious_faults(page) == []


def test_long_tables_start_short_and_show_all_on_request(browser: Any) -> None:
    with shown(browser, render_audit(made_up_audit(126))) as page:
        assert page.locator("#shown").inner_text() == "300 of 882 matrices"
        page.locator("#more").click()
        assert len(column(page, "name")) == 882
        assert not page.locator("#more").is_visible()
