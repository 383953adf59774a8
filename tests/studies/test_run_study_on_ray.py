"""A study on a Ray of this machine: a worker is killed in the middle, and nothing is lost."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import expand
from tests.studies.tiny_study import BRIEF, parsed, tiny_study

# A Ray that starts and stops takes a minute; fleets on Ray are looked at in every run of the tests.
pytestmark = pytest.mark.slow


def workers_at_work() -> list[int]:
    """The processes of our Ray that are at a run: they call themselves after it while they are."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::_task") and f"INTRUDERS_TEST={os.getpid()}".encode() in environment:
            found.append(int(entry.name))
    return found


def test_a_worker_is_killed_and_nothing_is_lost(llama: Path, tmp_path: Path, two_workers: None) -> None:
    methods = [{"method": "lora", "rank": [1, 2], "alpha": 16, "lr": 0.5}]
    study = parsed(tiny_study(llama, methods=methods, measure=BRIEF, steps=20))
    out = tmp_path / "out"
    first, *_ = expand(study)
    killed: list[int] = []

    def kill_one() -> None:
        while not (out / "runs" / first.id / "model" / "run.json").is_file():
            time.sleep(0.02)
        killed.append(workers_at_work()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    outcome = run_study(study, out, ray=True)
    killer.join(timeout=10)
    assert killed, "a worker was killed while it was at a run"
    assert (outcome.finished, outcome.failed) == (2, {})
    results = load_results(out)
    assert list(results.runs["status"]) == ["finished"] * 2
    assert results.runs["trained_steps"].eq(20).all()
    assert results.runs["intruders"].notna().all()
