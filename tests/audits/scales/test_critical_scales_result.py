"""Critical scales beside an audit: what `intruders scale --json` writes, shown where it is of the same update."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.audits.scales.critical_scales_result import (
    CriticalScales,
    MatrixScale,
    scales_beside,
    scales_for,
)
from intruders.checkpoints.stored.locate import HubOrigin
from intruders.errors import ResultFileError, SettingError
from intruders.reports.audit import render_audit
from intruders.reports.write_report import write_report
from tests.made_up import BERT, made_up_audit
from tests.reports.browsing import column, serious_faults, shown, sort_by

AUDIT = made_up_audit(3, BERT, width=32, tuned="runs/r1")


def scales_of(audit: Audit, **changes: Any) -> CriticalScales:
    """Scales of the audit's matrices, made up: 0.1, 0.2, ...; the last one was never reached."""
    last = len(audit.matrices) - 1
    matrices = [
        MatrixScale(matrix.name, matrix.shape, math.inf if i == last else (i + 1) / 10, (i + 1) / 8, 64.0)
        for i, matrix in enumerate(audit.matrices)
    ]
    sources = audit.base_source, audit.tuned_source
    made = CriticalScales(*sources, audit.k, audit.epsilon, 0, 0.095, 0, matrices, 1.0)
    return dataclasses.replace(made, **changes)


def written(folder: Path, scales: CriticalScales) -> Path:
    path = folder / "scale.json"
    scales.save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AUDIT.save(tmp_path / "audit.json")
    return tmp_path


@pytest.mark.usefixtures("without_pictures")
def test_a_file_beside_the_audit_is_shown_when_it_is_of_that_update(folder: Path) -> None:
    assert scales_beside(AUDIT, folder) is None
    for changes in ({"tuned_source": "runs/other"}, {"k": 5}, {"epsilon": 0.4}):
        written(folder, scales_of(AUDIT, **changes))
        assert scales_beside(AUDIT, folder) is None
    written(folder, scales_of(AUDIT))
    write_report([folder], folder / "r.html", folder / "figures")
    assert "scale-plot" in (folder / "r.html").read_text(encoding="utf-8").split("<script")[0]
    assert (folder / "figures" / "critical-scales.csv").is_file()


@pytest.mark.parametrize("side", ["base_hub", "tuned_hub"])
def test_a_file_beside_the_audit_of_another_commit_is_not_shown(side: str, folder: Path) -> None:
    """The branch has moved between the two."""
    first, second = ((HubOrigin("org/model", None, letter * 40),) for letter in "ab")
    audit = dataclasses.replace(AUDIT, **{side: first})  # type: ignore[arg-type]
    for hub, is_shown in ((first, True), (second, False), ((), True)):
        written(folder, scales_of(audit, **{side: hub}))
        assert (scales_beside(audit, folder) is not None) == is_shown


def test_a_file_that_was_asked_for_must_fit(folder: Path) -> None:
    assert scales_for(AUDIT, written(folder, scales_of(AUDIT, tuned_source="moved/r1"))).largest == 0.095
    with pytest.raises(SettingError, match=r"k = 5 and epsilon = 0\.5, and the audit with k = 10"):
        scales_for(AUDIT, written(folder, scales_of(AUDIT, k=5)))
    other = scales_of(made_up_audit(3, BERT, width=32, prefix="decoder.layers", tuned="runs/d"))
    with pytest.raises(SettingError, match=r"of 'runs/d', and the audit is of 'runs/r1': it has no 'decoder"):
        scales_for(AUDIT, written(folder, other))
    with pytest.raises(SettingError, match="with one audit, and 2"):
        write_report([folder, folder / "audit.json"], folder / "r.html", scale=folder / "scale.json")
    (folder / "scale.json").write_text("[]")
    with pytest.raises(ResultFileError, match="is not a file of critical scales"):
        write_report([folder / "audit.json"], folder / "r.html", scale=folder / "scale.json")
    assert not (folder / "r.html").exists()


@pytest.mark.browser
def test_the_page_shows_them(browser: Any, folder: Path) -> None:
    scales = CriticalScales.load(written(folder, scales_of(AUDIT)))
    with shown(browser, render_audit(AUDIT, scales)) as page:
        said = "The largest update scale with no intruders is 0.095 (1 = as trained)."
        assert said in page.locator("main").inner_text()
        assert page.locator("#scale-plot .main-svg").count() > 0
        points = "document.getElementById('scale-plot').data.find((trace) => trace.mode === 'markers').y"
        drawn = page.evaluate(points)
        assert drawn == pytest.approx([(i + 1) / 10 for i in range(len(AUDIT.matrices) - 1)])
        sort_by(page, "scale")
        sort_by(page, "scale")
        assert column(page, "scale")[0] == "0.1"
        assert column(page, "scale")[-1] == "above 64"
        page.locator("#choose").select_option(label=AUDIT.matrices[2].name)
        assert "0.3; predicted 0.375" in page.locator("#facts").inner_text()
        assert serious_faults(page) == []
    with shown(browser, render_audit(AUDIT)) as page:
        assert page.locator("#scale-plot").count() == 0
        assert "critical scale" not in page.locator("main").inner_text()
