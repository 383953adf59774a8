"""A study whose process is killed at some moment: the next call goes on, and nothing is lost or done twice."""

import os
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import yaml

from intruders.studies.results import load_results
from intruders.studies.runs import expand
from tests.commands import forked, in_this_process, printed
from tests.studies.tiny_study import BRIEF, parsed, tiny_study


def started(file: Path, out: Path, said: Path, *options: str) -> ForkProcess:
    """The command in a process of its own, which writes at its end what it printed on standard error."""

    def study() -> None:
        done = in_this_process("study", file, "--out", out, *options)
        said.write_text(done.stderr)
        sys.exit(done.returncode)

    return forked(study)


@pytest.mark.parametrize(
    ("stop", "options"),
    [(signal.SIGKILL, []), pytest.param(signal.SIGINT, ["--jobs", "2"], marks=pytest.mark.slow)],
)
def test_what_is_finished_is_kept_and_the_rest_goes_on(
    llama: Path, tmp_path: Path, stop: signal.Signals, options: list[str]
) -> None:
    methods = [{"method": "lora", "rank": [1, 2, 3], "alpha": 16, "lr": 0.5}]
    document = tiny_study(llama, methods=methods, measure=BRIEF, steps=12, save_steps=4, audit_steps=12)
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(document))
    *_, last = expand(parsed(document))
    killed = started(file, out, tmp_path / "said.txt", *options)
    checkpoints = out / "runs" / last.id / "model" / "checkpoints"
    while not any(checkpoints.glob("checkpoint-*/complete.json")):
        assert killed.is_alive(), (tmp_path / "said.txt").read_text()
        time.sleep(0.01)
    assert killed.pid is not None
    os.kill(killed.pid, stop)
    killed.join(timeout=60)
    assert killed.exitcode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    if stop == signal.SIGINT:
        assert "interrupted; finished runs are kept" in (tmp_path / "said.txt").read_text().splitlines()[-1]
    # The last run begins once any of the others has finished, and this one must be left alone.
    written = {audit: audit.stat().st_mtime_ns for audit in out.glob("runs/*/audit.json")}
    assert written
    printed("study", file, "--out", out)
    assert {audit: audit.stat().st_mtime_ns for audit in written} == written
    runs = load_results(out).runs
    assert list(runs["status"]) == ["finished"] * 3
    assert runs["trained_steps"].eq(12).all()
