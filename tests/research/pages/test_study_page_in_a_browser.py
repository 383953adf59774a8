"""The report of a study, used in a browser as a person would."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from intruders.audits.result.audit_result import Audit
from intruders.studies.results import Results
from intruders.studies.tables import COLUMNS
from intruders_research.claim_names import CLAIMS
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Finding
from intruders_research.pages.study_page import render_study
from tests.reports.browsing import WINDOWS, column, expect, opened, serious_faults, shown

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script><b>r=1</b>&amp;"


@pytest.fixture(scope="module")
def report(study: tuple[Results, list[Finding]]) -> str:
    return render_study(*study)


@pytest.fixture
def page(kept_page: Any) -> Any:
    """The shared page, with no filter."""
    kept_page.locator("#filter").fill("")
    return kept_page


def read_to_the_end(page: Any, inside: str = "main") -> None:
    """Scroll to one figure after another, each of which is drawn when it comes near the window.

    The page itself looks whether a figure is there, at every frame: from outside, each takes half a second.
    """
    page.evaluate(
        """async (figures) => {
          for (const plot of document.querySelectorAll(figures)) {
            plot.scrollIntoView({ block: "center" });
            const latest = performance.now() + 30_000;
            while (!plot.querySelector(".main-svg")?.checkVisibility()) {
              if (performance.now() > latest) throw new Error(`${plot.id} is not drawn`);
              await new Promise(requestAnimationFrame);
            }
          }
        }""",
        f"{inside} .plot",
    )


def test_it_opens_with_a_section_for_every_analysis(page: Any, study: tuple[Results, list[Finding]]) -> None:
    assert page.title() == "Study made-up: 66 of 67 runs finished, 11 questions"
    for finding in study[1]:
        section = page.locator(f'section[aria-labelledby="{finding.name}"]')
        text = section.text_content()  # what is folded included
        verdict = (finding.opening.rstrip(": "), *finding.sentences)
        for said in (finding.question, finding.claim, *verdict, *finding.notes):
            assert " ".join(said.split()) in " ".join(text.split())
        assert section.locator(".plot").count() > 0
    assert page.locator("#overview tbody tr").count() == len(CLAIMS)
    assert "rank 4096 is above <b>576</b>" in page.locator("details.note").inner_html().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")


def test_runs_are_filtered(page: Any) -> None:
    page.locator("#filter").fill("PISSA")
    assert page.locator("#shown").inner_text() == "3 of 67 runs"
    assert set(column(page, "method")) == {"pissa"}
    page.locator("#filter").fill("failed")
    assert len(column(page, "run")) == 1


def test_the_chosen_matrix_is_shown_for_every_setting(
    page: Any, study: tuple[Results, list[Finding]]
) -> None:
    read_to_the_end(page, "#similarities-0")
    name = page.locator("#choose-0 option").nth(2).inner_text()
    page.locator("#choose-0").select_option(label=name)
    rows = page.evaluate(
        "[...document.querySelectorAll('#similarities-0 .plot')].map((plot) => plot.data[0].z[0])"
    )
    labels = page.locator("#similarities-0 h4").all_inner_texts()
    assert len(rows) == len(labels) == 6
    [example] = [finding.tables["Similarity matrices"] for finding in study[1] if finding.name == "structure"]
    full = example.loc[example["setting"].str.startswith("full"), "run_id"].item()
    matrix = Audit.load(study[0].folder / "runs" / full / "audit.json").matrix(name)
    assert labels[-1].startswith("full")
    assert rows[-1] == pytest.approx(list(matrix.similarity[0]), abs=0.5 / 255 + 1e-6)


def widths(page: Any) -> list[tuple[float, float]]:
    """Of every figure, its box and what is drawn in it."""
    found: list[tuple[float, float]] = page.evaluate(
        """[...document.querySelectorAll(".plot")].map(
             (plot) => [plot, plot.querySelector(".main-svg")].map((box) => box.getBoundingClientRect().width))"""
    )
    return found


def test_a_dark_phone_does_not_break_it_and_axe_finds_no_serious_fault(browser: Any, report: str) -> None:
    """Axe looks while the first figures alone are drawn, since it goes through all of their shapes."""
    with shown(browser, report, **WINDOWS["dark phone"]) as phone:
        phone.locator(".plot").first.scroll_into_view_if_needed()
        expect(phone.locator(".plot .main-svg").first).to_be_visible()
        assert phone.locator(".plot:has(.main-svg)").count() < phone.locator(".plot").count()
        assert serious_faults(phone) == []
        read_to_the_end(phone)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
        figures = widths(phone)
        assert len(figures) > 30
        assert all(0 < frame <= box + 1 for box, frame in figures)


def test_paper_is_light_and_has_every_figure(browser: Any, report: str) -> None:
    with shown(browser, report, color_scheme="dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        figures = widths(page)
        assert len(figures) > 30
        assert all(0 < frame <= 688 for _, frame in figures)  # 182 mm
        assert not page.locator("#filter").is_visible()


def test_without_javascript_the_verdicts_and_tables_are_there(
    browser: Any, report: str, tmp_path: Path
) -> None:
    (tmp_path / "study.html").write_text(report, encoding="utf-8")
    with opened(browser, tmp_path / "study.html", java_script_enabled=False) as page:
        text = page.locator("body").inner_text()
        assert "Do intruders cause the forgetting?" in text
        assert "matched-full-lr5e-05-seed2" in text


def test_names_that_contain_html_are_shown_as_text(
    browser: Any, study: tuple[Results, list[Finding]]
) -> None:
    frame = pd.DataFrame(
        {
            "base": [EVIL, EVIL], "task": ["t", "t"], "setting": [EVIL, "full"],
            "intruders_per_100_vectors": [1.0, 2.0], "low": [0.5, -math.inf], "high": [1.5, math.inf],
        }
    )  # fmt: skip
    evil = [
        dataclasses.replace(
            finding, question=EVIL, claim=EVIL, verdict=EVIL, notes=[EVIL],
            tables={**finding.tables, "Intruders by setting": frame},
        )
        for finding in study[1]
        if finding.name == "structure"
    ]  # fmt: skip
    runs = study[0].runs.assign(run_id=EVIL, experiment=EVIL, error=EVIL)
    results = dataclasses.replace(study[0], name=EVIL, runs=runs)
    with shown(browser, render_study(results, evil)) as page:
        read_to_the_end(page)
        assert EVIL in page.title()
        assert page.locator("main").inner_text().count(EVIL) > 60
        assert page.locator("main img, main script, main b").count() == 0
        assert column(page, "run")[0] == EVIL
        assert "<img src=x" in page.locator("#figure-0").text_content()
        assert serious_faults(page) == []


def with_runs_alone(results: Results, runs: pd.DataFrame) -> Results:
    empty = {table: getattr(results, table).iloc[:0] for table in COLUMNS}
    return dataclasses.replace(results, **(empty | {"runs": runs}))


def test_a_study_of_nothing_but_runs_opens(
    browser: Any, study: tuple[Results, list[Finding]], tmp_path: Path
) -> None:
    measures = [
        "intruders",
        "loss_change",
        "accuracy",
        "effective_rank",
        "intruder_energy_share",
        "kl_prompts",
    ]
    runs = study[0].runs.iloc[:1].assign(**dict.fromkeys(measures, math.nan))
    bare = dataclasses.replace(with_runs_alone(study[0], runs), folder=tmp_path)
    with shown(browser, render_study(bare, analyse_all(bare))) as page:
        assert page.locator(".plot").count() == 0
        assert page.locator(".badge.not-run").count() == 2 * len(CLAIMS)
        assert serious_faults(page) == []


def test_runs_with_long_names_are_rows_of_few_lines(
    browser: Any, study: tuple[Results, list[Finding]]
) -> None:
    runs = study[0].runs
    long = [
        f"matched-word-problems-lora-rank1-alpha16-lr0.005-seed0-{number:08x}" for number in range(len(runs))
    ]
    named = with_runs_alone(study[0], runs.assign(run_id=long))
    with shown(browser, render_study(named, analyse_all(named))) as page:
        lines = page.evaluate(
            "[...document.querySelectorAll('#table tbody tr')].map((row) =>"
            " row.clientHeight / parseFloat(getComputedStyle(row).lineHeight))"
        )
        assert len(lines) == len(runs)
        assert max(lines) < 3
