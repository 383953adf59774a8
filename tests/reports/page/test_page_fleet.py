"""The report of a fleet, used in a browser: the table, the scatter, and one adapter at a time."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.fleet.fleet_result import FleetAudit
from intruders.reports.fleet import render_fleet
from intruders.system.words import number, percent
from tests.made_up import LLAMA
from tests.reports.browsing import (
    WINDOWS,
    column,
    expect,
    require_that_it_fits_and_can_be_read,
    shown,
    sort_by,
)
from tests.tiny import save_lora, save_weights

pytestmark = pytest.mark.browser

REFUSED = "<b>odd & refused</b>"


def fleet_of(folder: Path, count: int, layers: int) -> FleetAudit:
    """Audit so many adapters, each stronger than the one before it, and one that is refused."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{layer}.{kind}" for layer in range(layers) for kind in LLAMA]
    base = {f"{name}.weight": torch.randn(16, 12, generator=generator) for name in names}
    sources = [f"runs/adapter-{i}" for i in range(count)]
    for i, source in enumerate(sources, start=1):
        left, right = torch.randn(16, 4, generator=generator), torch.randn(4, 12, generator=generator)
        save_lora(folder / source, dict.fromkeys(names, (left, right)), scale=i / count)
    save_weights(folder / "base", base)
    with chdir(folder):
        return audit_fleet("base", [*sources, REFUSED], out=folder / "fleet", cache=False)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetAudit:
    return fleet_of(tmp_path_factory.mktemp("blocks"), 40, 4)


@pytest.fixture(scope="module")
def report(fleet: FleetAudit) -> str:
    return render_fleet(fleet)


def numbers(page: Any) -> list[int]:
    return [int(text.replace(",", "")) for text in column(page, "intruders") if text != "-"]


def test_the_table_sorts_filters_and_has_the_counts(browser: Any, report: str, fleet: FleetAudit) -> None:
    counts = fleet.adapters["intruders"].dropna().tolist()
    with shown(browser, report) as page:
        assert numbers(page) == sorted(counts, reverse=True)
        assert column(page, "status")[-1] == "refused"  # without a value: last, whichever way
        sort_by(page, "intruders")
        assert numbers(page) == sorted(counts)
        assert column(page, "adapter")[-1] == REFUSED
        page.locator("#filter").fill("adapter-1")
        texts = fleet.adapters["adapter"] + " " + fleet.adapters["nearest"].fillna("")
        assert len(column(page, "adapter")) == texts.str.contains("adapter-1").sum() < 41
        page.locator("#filter").fill("")
        least = sorted(counts)[30]
        page.locator("#least").fill(str(least))
        assert numbers(page) == [count for count in sorted(counts) if count >= least]
        page.locator("#least").fill("")
        page.locator("#refused").check()
        assert column(page, "adapter") == [REFUSED]
        expect(page.locator("#shown")).to_have_text("1 of 41 adapters")


def test_a_row_opens_its_adapter(page: Any, fleet: FleetAudit) -> None:
    wanted = fleet.audit("runs/adapter-20")
    page.get_by_role("button", name="runs/adapter-20", exact=True).click()
    expect(page.locator("#name")).to_have_text("runs/adapter-20")
    command = "intruders audit base runs/adapter-20 --k 10 --epsilon 0.5 --html audit.html"
    expect(page.locator("#command")).to_have_text(command)
    drawn = page.evaluate("document.getElementById('layers-plot').data[0].z")
    names = page.evaluate("document.getElementById('layers-plot').layout.yaxis.ticktext")
    for kind, row in zip(names, drawn, strict=True):
        mine = [one.intruders for one in wanted.matrices if one.name.endswith(f"{kind}.weight")]
        assert row == mine, kind
    page.locator("#measure").select_option("2")
    drawn = page.evaluate("document.getElementById('layers-plot').data[0].z")
    relative = wanted.matrices_to_pandas()["relative_update"]
    np.testing.assert_allclose(sorted(v for row in drawn for v in row), sorted(relative), rtol=1e-6)
    page.locator("#measure").select_option("0")
    page.get_by_role("button", name="runs/adapter-0", exact=True).click()  # of few intruders
    expect(page.locator("#layers-plot .cbaxis text")).to_have_text(["0", "1", "2", "3"])


def test_the_scatter_has_the_columns_chosen(page: Any, fleet: FleetAudit) -> None:
    page.locator("#across").select_option(label="update norm")
    page.locator("#up").select_option(label="energy share")
    page.locator("#up-log").check()
    x, y, kind = page.evaluate(
        """(({data: [points], layout}) => [points.x, points.y, layout.yaxis.type])(
             document.getElementById("scatter-plot"))"""
    )
    audited = fleet.adapters[fleet.adapters["status"] == "audited"]
    np.testing.assert_allclose(x, audited["frobenius"], rtol=1e-5)
    np.testing.assert_allclose(y, audited["energy_share"], rtol=1e-5)
    assert kind == "log"


def test_no_window_breaks_it_and_axe_finds_no_serious_fault(browser: Any, page: Any, report: str) -> None:
    with shown(browser, report, **WINDOWS["dark phone"]) as phone:
        for window in (page, phone):
            require_that_it_fits_and_can_be_read(window)


@pytest.mark.slow
def test_a_thousand_rows_are_light(browser: Any, tmp_path: Path) -> None:
    """What the page adds to plotly stays under a megabyte, and a hundred rows are drawn at first."""
    report, empty = (render_fleet(fleet_of(tmp_path / str(count), count, 1)) for count in (1000, 1))
    assert len(report.encode()) - len(empty.encode()) < 1e6
    with shown(browser, report) as page:
        assert len(column(page, "adapter")) == 100
        page.locator("#more").click()
        assert len(column(page, "adapter")) == 1001


def test_numbers_are_written_as_in_the_terminal(page: Any) -> None:
    values = [0.0, 3.0, 200000.0, 18874600.0, 0.0001234, 1.5e-12, 99999.0, 123456.7]
    texts = page.evaluate("(all) => all.map((value) => shown(NUMBERS[numberAt('unusual')], value))", values)
    assert texts == [number(value) for value in values]
    assert page.evaluate("shown(NUMBERS[numberAt('intruders')], 200000)") == "200,000"


def test_energy_shares_of_matrices_are_written_as_in_the_audit(page: Any, fleet: FleetAudit) -> None:
    for name in ("runs/adapter-20", "runs/adapter-39"):
        shares = [one.intruder_energy_share for one in fleet.audit(name).matrices]
        texts = page.evaluate(
            "(name) => unpacked(DATA.rows.findIndex((row) => row[textAt('adapter')] === name))[1].map(percentText)",
            name,
        )
        assert texts == [percent(share) for share in shares]
