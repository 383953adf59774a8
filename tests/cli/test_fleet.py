"""``intruders fleet`` as a person types it: tables, exit statuses, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.checkpoints.models import saved, tiny_llama
from tests.commands import environment, in_this_process
from tests.mitigation.hot import hot_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and beside it three adapters in a folder: with intruders, without, and for another base."""
    folder = tmp_path_factory.mktemp("fleet")
    saved(tiny_llama(), folder / "base")
    saved(hot_llama(1), folder / "adapters" / "strong")
    saved(hot_llama(2, 0.01), folder / "adapters" / "weak")
    saved(
        hot_llama(3, 1.0, tiny_llama(hidden_size=32, intermediate_size=48)),
        folder / "adapters" / "of another",
    )
    return folder


def run(folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    base, adapters = str(folder / "base"), str(folder / "adapters")
    return in_this_process("fleet", base, f"{adapters}/*", "--out", out, "--no-cache", *arguments)


def test_it_prints_the_adapters_and_writes_the_tables(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "out", "--json", str(tmp_path / "fleet.json"))
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert "in 2 adapters" in first
    assert "1 refused" in first
    assert max(map(len, [line for line in lines if not line.startswith("refused")])) <= 80
    assert [line for line in lines if line.startswith("refused: ")]
    table = pq.read_table(tmp_path / "out" / "adapters.parquet").to_pylist()
    assert [Path(row["adapter"]).name for row in table] == ["of another", "strong", "weak"]
    assert [row["status"] for row in table] == ["refused", "audited", "audited"]
    assert (tmp_path / "out" / "vectors.parquet").is_file()
    document = json.loads((tmp_path / "fleet.json").read_text())
    assert document["adapters"] == table
    assert document["totals"]["refused"] == 1


def test_gates(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, out).returncode == 0
    above = run(folder, out, "--fail-above", "0")
    assert above.returncode == 1
    assert "more intruders than the 0 that --fail-above allows in 1 adapter," in above.stderr
    assert "strong" in above.stderr
    assert run(folder, out, "--fail-above", "10000").returncode == 0
    refused = run(folder, out, "--fail-refused")
    assert refused.returncode == 1
    assert "of another" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epsilon", "2"], "epsilon"),
        (["--include", "nothing*"], "nothing*"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run(folder, tmp_path / "out", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_with_what_is_finished(tmp_path: Path, stop: signal.Signals) -> None:
    """The first block that is kept stays as it is, and the tables are those of an undisturbed run."""
    torch.manual_seed(0)
    settings = {
        "num_hidden_layers": 12,
        "hidden_size": 192,
        "intermediate_size": 256,
        "num_key_value_heads": 4,
    }
    base = saved(tiny_llama(**settings), tmp_path / "base")
    for seed in range(3):
        saved(hot_llama(seed, 0.5, tiny_llama(**settings)), tmp_path / "adapters" / str(seed))
    arguments = [str(base), f"{tmp_path}/adapters/*", "--no-cache", "--out"]
    command = [sys.executable, "-m", "intruders", "fleet", *arguments, str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    blocks = tmp_path / "out" / "blocks"
    while not list(blocks.glob("*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.kill(process.pid, stop)
    _, said = process.communicate(timeout=60)
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "finished blocks are kept" in said
    kept = {file: file.stat().st_mtime_ns for file in blocks.glob("*.parquet")}
    assert 1 <= len(kept) < 12
    assert in_this_process("fleet", *arguments, tmp_path / "out").returncode == 0
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert in_this_process("fleet", *arguments, tmp_path / "whole").returncode == 0
    again, whole = (pq.read_table(tmp_path / out / "vectors.parquet").to_pandas() for out in ("out", "whole"))
    keys = ["adapter", "name", "index"]
    again, whole = again.sort_values(keys), whole.sort_values(keys)
    assert again[[*keys, "intruder", "certificate"]].values.tolist() == (
        whole[[*keys, "intruder", "certificate"]].values.tolist()
    )
