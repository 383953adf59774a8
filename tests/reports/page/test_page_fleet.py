"""The report of a fleet, used in a browser: the table, the scatter, and one adapter at a time."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.fleet.fleet_files import FleetFiles, Unit, rows_of
from intruders.audits.fleet.fleet_members import Member
from intruders.audits.fleet.fleet_result import FleetAudit
from intruders.audits.fleet.fleet_table import adapter_table
from intruders.audits.fleet.fleet_work import FleetWork
from intruders.audits.judge import Judged
from intruders.audits.kept_nats import KeptNats
from intruders.checkpoints.pairing.pairing import PairedMatrix, Pairing
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.reports.fleet import render_fleet
from intruders.system.store import Store
from intruders.system.words import number, percent
from tests.made_up import LLAMA, made_up_audit
from tests.reports.browsing import (
    WINDOWS,
    column,
    expect,
    require_that_it_fits_and_can_be_read,
    shown,
    sort_by,
)

pytestmark = pytest.mark.browser


def made_up_fleet(folder: Path, count: int, layers: int) -> FleetAudit:
    """So many adapters with intruders of every frequency, the last of them refused."""
    key, settings = "0" * 64, AuditSettings()
    base = Checkpoint("base", "checkpoint", "memory", {})
    files = FleetFiles(Store(folder), key)
    members, matrices, digests, units = [], [], [], {}
    # To make an audit up takes longer than to show it, so that of a thousand adapters some have the same numbers.
    different = min(count, 40)
    audits = [made_up_audit(layers, LLAMA, intruder_rate=0.3 * i / different) for i in range(different)]
    for i in range(count):
        audit = dataclasses.replace(audits[i % different], tuned_source=f"runs/adapter-{i}")
        digest = f"{i:032x}"
        digests += [digest] * len(audit.matrices)
        matrices += [Judged(i, matrix, torch.zeros(0)) for matrix in audit.matrices]
        units[digest] = Unit([], None)
        pairs = [PairedMatrix(one.name, one.shape, one.rank, lambda: None) for one in audit.matrices]
        pairing = Pairing(base, Checkpoint(audit.tuned_source, "adapter", "memory", {}), pairs, [])
        facts = {"method": "lora", "rank_min": 8, "rank_max": 8, "scale_min": 1.0, "scale_max": 1.0}
        members.append(Member(audit.tuned_source, digest, facts, pairing))
    files.keep("layers", units, rows_of(digests, matrices))
    members.append(Member("<b>odd & refused</b>", "refused", {}, None, "it is for another base"))
    written = FleetWork(base, members, settings, Compute(), files, KeptNats()).finish({}, {}, 1.0)
    return FleetAudit("base", settings, 12.0, adapter_table(members, written, "base"), folder, key)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetAudit:
    return made_up_fleet(tmp_path_factory.mktemp("blocks"), 40, 4)


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
        assert column(page, "adapter")[-1] == "<b>odd & refused</b>"
        page.locator("#filter").fill("adapter-1")
        assert len(column(page, "adapter")) == 11
        page.locator("#filter").fill("")
        page.locator("#least").fill(str(sorted(counts)[30]))
        assert numbers(page) == sorted(counts)[30:]
        page.locator("#least").fill("")
        page.locator("#refused").check()
        assert column(page, "adapter") == ["<b>odd & refused</b>"]
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
    report, empty = (render_fleet(made_up_fleet(tmp_path / str(count), count, 1)) for count in (1000, 1))
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
