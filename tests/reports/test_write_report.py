"""From saved audits to a report: what is found, what is written, what is refused before any work."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import pytest

from intruders.audits.result.records import CERTIFICATES
from intruders.errors import MissingDependencyError, ResultFileError, SettingError
from intruders.reports.audit import render_audit
from intruders.reports.html_page import check_can_write_html
from intruders.reports.write_report import audit_files, write_report
from tests.commands import in_this_process
from tests.made_up import BERT, made_up_audit

ONE = made_up_audit(3, BERT, width=32, tuned="runs/r1")
TWO = made_up_audit(3, BERT, width=32, tuned="runs/r8", rank=8, seed=1)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two run folders with an audit each, a stray file, and a folder without an audit."""
    for name, audit, file in [("a", ONE, "audit.json"), ("b", TWO, "audit.parquet")]:
        (tmp_path / "runs" / name).mkdir(parents=True)
        audit.save(tmp_path / "runs" / name / file)
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("x")
    return tmp_path / "runs"


def test_audits_are_found_in_files_run_folders_and_folders_of_runs(runs: Path) -> None:
    one, two = runs / "a" / "audit.json", runs / "b" / "audit.parquet"
    assert audit_files(one) == [one]
    assert audit_files(runs / "b") == [two]
    assert audit_files(runs) == [one, two]


def test_audits_of_a_training_are_compared_in_the_order_of_their_steps(tmp_path: Path) -> None:
    names = [*(f"checkpoint-{step}" for step in (50, 200, 1000, 10000)), "checkpoint-\u00b2"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audit.json").touch()
    assert [file.parent.name for file in audit_files(tmp_path)] == names


def test_what_is_no_audit_is_named(runs: Path) -> None:
    for path, said in [(runs / "c", "has no audit.json"), (runs / "gone", "does not exist")]:
        with pytest.raises(ResultFileError, match=said):
            audit_files(path)
    with pytest.raises(SettingError, match=r"notes\.txt"):
        write_report([runs / "notes.txt"], runs / "r.html")
    (runs / "c" / "heal.json").write_text("{}")
    with pytest.raises(ResultFileError, match=r"is the folder of a healing; .* `intruders heal` .* --html"):
        write_report([runs / "c"], runs / "r.html")
    assert "--html FILE" in in_this_process("heal", "--help").stdout


def test_one_audit_gets_its_own_report_and_several_stand_side_by_side(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    for paths in ([runs / "a"], runs / "a", str(runs / "a")):  # one path is no list of letters
        assert write_report(paths, out) == [out]
        assert f"<title>{ONE.intruders} intruder dimension" in out.read_text()
        out.unlink()
    assert write_report([runs], out) == [out]
    assert "<title>2 fine-tunings of smollm2-135m" in out.read_text()


def test_outputs_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="does not exist; make it first"):
        write_report([tmp_path / "gone"], tmp_path / "no" / "r.html")
    (tmp_path / "file").write_text("")
    ONE.save(tmp_path / "a.json")
    with pytest.raises(ResultFileError, match="cannot make the folder"):
        write_report([tmp_path / "a.json"], None, tmp_path / "file")


def test_a_7b_report_stays_under_6_mb(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text(render_audit(made_up_audit(32, width=4096)), encoding="utf-8")
    assert os.path.getsize(tmp_path / "r.html") < 6e6


def test_missing_packages_are_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_write_html(tmp_path / "r.html")
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingDependencyError, match=r"'plotly'.*pip install '\.\[report\]'"):
        check_can_write_html(tmp_path / "r.html")


def test_the_page_explains_every_certificate() -> None:
    """Each is a word of the page's table, and its sentence stands beside it."""
    matrix = ONE.matrices[0]
    for name in CERTIFICATES:
        vectors = [dataclasses.replace(vector, certificate=name) for vector in matrix.vectors]
        only = dataclasses.replace(ONE, matrices=[dataclasses.replace(matrix, vectors=vectors)])
        wanted = rf'<th scope="row">{name}</th><td class="number">{len(vectors)}</td><td>(.+)</td>'
        row = re.search(wanted, render_audit(only))
        assert row is not None, name
        assert len(row[1].split()) > 5


def test_nothing_in_the_page_points_to_the_network_but_links_to_read() -> None:
    own = re.sub(r"<script>.*?</script>", "", render_audit(ONE), flags=re.DOTALL)
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=", own)
    assert re.search(r"Content-Security-Policy[^>]+default-src 'none'", own)


def test_the_intervals_in_the_page_are_exact() -> None:
    payload = render_audit(ONE).partition('id="data">')[2].partition("</script>")[0]
    for drawn, matrix in zip(json.loads(payload)["matrices"], ONE.matrices, strict=True):
        bounds = list(zip(drawn["lower"], drawn["upper"], strict=True))
        assert bounds == [vector.max_cosine for vector in matrix.vectors]


def test_a_notebook_shows_the_totals_with_names_escaped() -> None:
    html = ONE._repr_html_()
    assert f"{ONE.intruders} intruder dimensions in 180 vectors of 18 matrices" in html
    assert html.count("<tr") == 1 + len(BERT)
    matrices = [dataclasses.replace(ONE.matrices[0], name="<b>")]
    odd = dataclasses.replace(ONE, matrices=matrices, base_source="<script>")._repr_html_()
    assert "<script" not in odd
    assert "<b>" not in odd
