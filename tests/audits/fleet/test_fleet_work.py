"""What a fleet leaves to do, a model done alone or with others, and its file against its own audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from intruders.audits.audit import audit_pairing
from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.fleet import fleet_work
from intruders.audits.fleet.fleet_files import AdapterFile, FleetFiles
from intruders.audits.fleet.fleet_members import Member
from intruders.audits.fleet.fleet_work import FleetWork, finish_adapters, grouped_blocks
from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.pairing.pairing import PairedMatrix, Pairing
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.errors import ResultFileError
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.system.store import Store

NAMES = [f"layers.{layer}.{part}.weight" for layer in range(3) for part in ("q", "o")] + ["head.weight"]

KEY, SETTINGS = "0" * 64, AuditSettings(k=5)
BASE = Checkpoint("base", "checkpoint", "memory", {})


def files_in(folder: Path) -> FleetFiles:
    return FleetFiles(Store(folder), KEY)


def member(number: int, names: Sequence[str] = NAMES, digest: str | None = None) -> Member:
    """A model with an update of rank 2 in each of these matrices, strong in some."""
    pairs = []
    for position, name in enumerate(NAMES):
        base = np.random.default_rng(position).standard_normal((40, 30)) / 5
        generator = np.random.default_rng([number, position])
        left, right = generator.standard_normal((40, 2)), generator.standard_normal((2, 30))
        left *= (0.2, 3.0, 6.0)[(number + position) % 3] / np.linalg.norm(left @ right, 2)
        pair = Pair(
            torch.from_numpy(base).float(),
            LowRank(torch.from_numpy(left).float(), torch.from_numpy(right).float()),
        )
        if name in names:
            pairs.append(PairedMatrix(name, (40, 30), 2, lambda pair=pair: pair))  # type: ignore[misc]
    pairing = Pairing("base", f"model {number}", "adapter", pairs, [])
    return Member(f"model {number}", digest or f"digest {number}", pairing=pairing)


def work(folder: Path, *members: Member) -> FleetWork:
    base: Any = SimpleNamespace(names=lambda: NAMES, tied={})
    return FleetWork(base, list(members), SETTINGS, Compute(cache=False, workers=1), files_in(folder))


def rows_of(folder: Path) -> dict[tuple[str, str], list[tuple[int, bool]]]:
    """By model and matrix, the decision about every vector."""
    rows: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for block in files_in(folder).blocks():
        for row in block.rows().to_pylist():
            rows.setdefault((row["adapter"], row["name"]), []).append((row["index"], row["intruder"]))
    return rows


def test_what_is_kept_is_not_done_again_and_a_further_model_costs_itself(tmp_path: Path) -> None:
    first = work(tmp_path, member(0), member(1))
    missing = first.missing()
    assert list(missing) == ["layers.0", "layers.1", "layers.2", "outside the layers"]
    assert {number for sharers in missing["layers.1"].values() for number, _ in sharers} == {0, 1}
    done: list[tuple[int, int]] = []
    first.do(missing, lambda stage, at, of: done.append((at, of)))
    assert done[-1] == (len(NAMES), len(NAMES))
    assert first.missing() == {}
    further = work(tmp_path, member(0), member(1), member(2))
    left = further.missing()
    assert {number for several in left.values() for sharers in several.values() for number, _ in sharers} == {
        2
    }
    files = set((tmp_path / "blocks").iterdir())
    further.do(left)
    assert further.missing() == {}
    assert files < set((tmp_path / "blocks").iterdir())  # files are added and none is written again


def test_equal_models_are_done_once(tmp_path: Path) -> None:
    twice = work(tmp_path, member(0, digest="same"), member(0, digest="same"))
    missing = twice.missing()
    assert {len(sharers) for several in missing.values() for sharers in several.values()} == {1}
    twice.do(missing)
    assert {digest for digest, _ in rows_of(tmp_path)} == {"same"}


def test_blocks_are_done_together_up_to_a_number_of_matrices() -> None:
    """A matrix of three models counts three times."""
    matrix: Any = None
    blocks = {str(block): {f"m{at}": [(0, matrix)] for at in range(25)} for block in range(7)}
    assert [len(group) for group in grouped_blocks(blocks)] == [3, 3, 1]  # full from 60 matrices on
    shared = {
        block: {name: [(0, matrix), (1, matrix), (2, matrix)] for name in blocks[block]} for block in blocks
    }
    assert [list(group) for group in grouped_blocks(shared)] == [[block] for block in blocks]
    assert list(grouped_blocks({})) == []


def finished(
    folder: Path, members: list[Member], base: Checkpoint = BASE
) -> dict[tuple[str, str], AdapterFile]:
    """Audit what is missing, and write the files, as a call of a fleet does."""
    files = files_in(folder)
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
    monkeypatch.setattr(fleet_work, "_VECTORS_AT_ONCE", at_once)
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


@pytest.mark.parametrize("waits", [False, True])
def test_the_audits_of_a_base_that_was_moved_name_where_it_is_now(tmp_path: Path, waits: bool) -> None:
    """Its content is what finished files are known by. An adapter of the call before last has its file elsewhere."""
    first = member(0)
    finished(tmp_path, [first])
    if waits:
        files_in(tmp_path).arrange(set())
    moved = replace(BASE, source="moved/base")
    written = finished(tmp_path, [first, replace(first, source="a copy")], moved)
    files_in(tmp_path).arrange({file.path.name for file in written.values()})
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
    files = files_in(tmp_path)
    with pytest.raises(
        ResultFileError, match=r"lack 3 of its 7 matrices: 'layers\.2\.q\.weight', .*; run the same"
    ):
        finish_adapters([one], files, {}, SETTINGS, 1.5, BASE)
    assert not (tmp_path / "vectors").exists()
