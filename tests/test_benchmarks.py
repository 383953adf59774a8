"""The benchmarks run from end to end on tiny matrices; their times are nobody's concern here."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

pytest.importorskip("peft")

from benchmarks import goals, layers, measure, memory
from benchmarks.figure import save_figure
from benchmarks.inputs import HOT, llm_like, lora
from benchmarks.machine import read_rate, this_machine
from benchmarks.measure import CountsDifferError, Row, require_equal, row_of
from benchmarks.pages import PageTime, page_times
from benchmarks.paper import checks, estimates
from benchmarks.peers import RESIDUAL, Peer, largest_residual, peer_rows, solvers
from benchmarks.results import Results
from benchmarks.table import print_results
from tests.reports.browsing import chromium


@pytest.mark.parametrize("file", sorted(Path("benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_every_benchmark_finds_what_it_imports(file: Path) -> None:
    importlib.import_module(f"benchmarks.{file.stem}")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    shapes = ((300, 260), (260, 300))
    return list(layers.layer_rows("tiny", shapes, with_others=True, repeats=1))


@pytest.fixture(scope="module")
def peers() -> list[Peer]:
    return list(peer_rows(((300, 260),)))


def test_reference_peft_and_engine_agree_and_passes_are_counted(rows: list[Row]) -> None:
    assert [row.label for row in rows] == ["300 x 260"] * 2 + ["260 x 300"] * 2
    assert [row.intruders > 0 for row in rows] == [False, True] * 2
    for row in rows:
        assert row.reference is not None
        assert min(row.reference, row.cold.seconds, row.cached.seconds) > 0
        assert row.cached.passes < row.cold.passes <= row.cold.rows
        assert row.whole is not None
        assert row.decomposing is not None
        assert row.whole.passes == 0
    # PEFT's function is run on the first shape alone: its time would be most of the suite's.
    assert all(row.peft is not None and row.peft > 0 for row in rows[:2])
    assert all(row.peft is None for row in rows[2:])


def test_a_disagreement_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "reference_count", lambda *_: 11)
    with pytest.raises(CountsDifferError, match="'reference': 11"):
        row_of("tiny", lora(260, 260, HOT), with_peft=False, repeats=1)
    require_equal("fine", {"a": 3, "b": 3})


def test_a_run_is_printed_in_80_columns_written_and_drawn(
    rows: list[Row], peers: list[Peer], tmp_path: Path
) -> None:
    peaks = list(memory.peaks(1, {"self_attn.q_proj": (64, 64), "mlp.up_proj": (96, 64)}))
    assert [peak.matrices for peak in peaks] == [2, 2]
    assert all(peak.import_bytes <= peak.peak_bytes < 2**31 for peak in peaks)
    square = [dataclasses.replace(row, section="square") for row in rows]
    rate = read_rate(64, 64)
    results = Results(
        machine=this_machine(),
        quick=True,
        rows=[*rows, *square],
        peaks=peaks,
        pages=[PageTime("audit of a model", 2**20, 0.25)],
        peers=peers,
        checks=checks(rows, rows),
        estimates=estimates(rows, rate),
        read_rate=rate,
        seconds=1.0,
    )
    assert [(check.cold, check.cached) for check in results.checks] == [(1.0, 1.0)] * 4
    results.save(tmp_path / "quick.json")
    assert len(json.loads((tmp_path / "quick.json").read_text())["rows"]) == 8
    save_figure(square, tmp_path / "quick.png")
    assert (tmp_path / "quick.png").stat().st_size > 1000
    console = Console(width=80, record=True, quiet=False, file=(tmp_path / "table.txt").open("w"))
    print_results(results, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("300 x 260" in line for line in lines)
    assert any("torch.svd_lowrank" in line for line in lines)
    assert "usable in a browser after 0.25 s" in " ".join(line.strip() for line in lines)
    assert not any("…" in line for line in lines)


def test_peers_find_what_a_dense_decomposition_finds(peers: list[Peer]) -> None:
    matrix = llm_like(300, 260, seed=0)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert largest_residual(matrix, left[:, :10], values[:10], right[:10].mT) < 1e-5
    assert largest_residual(matrix, left[:, :10], values[:10] + 0.1, right[:10].mT) > RESIDUAL
    for peer in peers:
        assert peer.seconds is not None
        assert 0 < peer.residual <= RESIDUAL
    for solve in solvers().values():
        found = solve(matrix, 6)[1].sort(descending=True).values
        torch.testing.assert_close(found, values[:10], rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.browser
def test_both_reports_are_timed_in_a_browser() -> None:
    with chromium():  # skips where there is no browser, which the benchmark itself says in a line
        pass
    timed = list(page_times(repeats=1))
    assert len(timed) == 2
    assert all(page.seconds > 0 and page.page_bytes > 2**16 for page in timed)


def test_goals_are_measured_one_at_a_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setitem(goals.GOALS, "270", 10**9)
    try:
        goals.main(["270"])
    finally:
        torch.set_num_threads(threads)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("270: ")
    assert "goal 1000000000x base decomposed: missed" in line
    with pytest.raises(SystemExit, match="pass some of smollm2, 1024"):
        goals.main(["1023"])
