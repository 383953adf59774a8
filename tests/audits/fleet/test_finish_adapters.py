"""From the blocks of several adapters to a file each, against the audit of each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from intruders.audits.audit import audit_pairing
from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.fleet import finish_adapters as module
from intruders.audits.fleet.finish_adapters import finish_adapters
from intruders.audits.fleet.fleet_files import AdapterFile, FleetFiles
from intruders.audits.fleet.fleet_members import Member
from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.errors import ResultFileError
from intruders.system.store import Store
from tests.audits.fleet.test_fleet_work import NAMES, member, work

SETTINGS = AuditSettings(k=5)
KEY = "0" * 64


BASE = Checkpoint("base", "checkpoint", "memory", {})


def finished(
    folder: Path, members: list[Member], base: Checkpoint = BASE
) -> dict[tuple[str, str], AdapterFile]:
    """Audit what is missing, and write the files, as a call of a fleet does."""
    files = FleetFiles(Store(folder), KEY)
    earlier = {file.path.name: file for file in files.adapters()}
    known = {file.digest for file in earlier.values()}
    members = [replace(one, is_finished=one.digest in known) for one in members]
    fleet = work(folder, *(one for one in members if not one.is_finished))
    fleet.do(fleet.missing())
    return finish_adapters(members, files, earlier, SETTINGS, 1.5, base)


@pytest.mark.parametrize("at_once", [1, 200_000])
def test_each_file_is_the_audit_of_its_adapter_in_the_order_of_its_pairing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Whether the rows of all are read together or of one after the other."""
    monkeypatch.setattr(module, "_VECTORS_AT_ONCE", at_once)
    members = [member(0), member(1, NAMES[3:5]), member(2, [NAMES[-1]])]
    written = finished(tmp_path, members)
    assert set(written) == {(one.source, one.digest) for one in members}
    for one in members:
        assert one.pairing is not None
        file = written[one.source, one.digest]
        wanted = audit_pairing(one.pairing, SETTINGS, Compute(cache=False, workers=1))
        found = Audit.load(file.path)
        assert [matrix.name for matrix in found.matrices] == [matrix.name for matrix in one.pairing.pairs]
        assert [[v.intruder for v in matrix.vectors] for matrix in found.matrices] == [
            [v.intruder for v in matrix.vectors] for matrix in wanted.matrices
        ]
        assert (found.tuned_source, found.seconds) == (one.source, 1.5)
        counts = (file.counts["matrices"], file.counts["vectors"], file.counts["intruders"])
        assert counts == (len(wanted.matrices), wanted.vectors, wanted.intruders)
        assert set(pd.read_parquet(file.path)["adapter"]) == {one.source}
        assert AdapterFile.read(file.path, KEY) is not None
    assert sum(file.counts["intruders"] for file in written.values()) > 0


def test_adapters_of_the_same_content_have_a_file_each_with_the_same_rows(tmp_path: Path) -> None:
    first, copy = member(0), replace(member(0), source="a copy")
    written = finished(tmp_path, [first, copy])
    rows = [
        pd.read_parquet(written[one.source, one.digest].path).drop(columns="adapter") for one in (first, copy)
    ]
    pd.testing.assert_frame_equal(*rows)
    times = {file.path: file.path.stat().st_mtime_ns for file in written.values()}
    again = finished(tmp_path, [first, copy, member(1), replace(first, source="a late copy")])
    assert {file.path for file in again.values()} > set(times)
    assert {path: path.stat().st_mtime_ns for path in times} == times, "a finished file is not written again"
    late = again["a late copy", first.digest]
    assert Audit.load(late.path).tuned_source == "a late copy"
    assert late.counts == written[first.source, first.digest].counts


def test_a_member_that_cannot_be_opened_has_no_file(tmp_path: Path) -> None:
    refused = Member("missing", "refused missing", reason="there is nothing")
    written = finished(tmp_path, [member(0), refused])
    assert [source for source, _ in written] == ["model 0"]
    assert len(list((tmp_path / "vectors").iterdir())) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_the_audits_of_a_base_that_was_moved_name_where_it_is_now(tmp_path: Path, waits: bool) -> None:
    """Its content is what finished files are known by. An adapter of the call before last has its file elsewhere."""
    first = member(0)
    finished(tmp_path, [first])
    if waits:
        FleetFiles(Store(tmp_path), KEY).arrange(set())
    moved = replace(BASE, source="moved/base")
    written = finished(tmp_path, [first, replace(first, source="a copy")], moved)
    FleetFiles(Store(tmp_path), KEY).arrange({file.path.name for file in written.values()})
    files = sorted((tmp_path / "vectors").iterdir())
    assert len(files) == 2
    audits = [Audit.load(file) for file in files]
    assert [audit.base_source for audit in audits] == ["moved/base"] * 2
    assert {audit.tuned_source for audit in audits} == {first.source, "a copy"}
    assert audits[0].matrices == audits[1].matrices
    times = [file.stat().st_mtime_ns for file in files]
    finished(tmp_path, [first, replace(first, source="a copy")], moved)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_a_model_of_which_a_block_was_lost_is_not_written(tmp_path: Path) -> None:
    """Its counts would be too small."""
    one = member(0)
    fleet = work(tmp_path, one)
    missing = fleet.missing()
    fleet.do({block: missing[block] for block in ("layers.0", "layers.1")})
    files = FleetFiles(Store(tmp_path), KEY)
    with pytest.raises(
        ResultFileError, match=r"lack 3 of its 7 matrices: 'layers\.2\.q\.weight', .*; run the same"
    ):
        finish_adapters([one], files, {}, SETTINGS, 1.5, BASE)
    assert not (tmp_path / "vectors").exists()
