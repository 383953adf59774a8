"""intruders finetune as a person runs it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import save_llama


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "intruders"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def test_a_run_and_its_second_call(llama: Path, tmp_path: Path) -> None:
    options = [
        "finetune", "--base", str(llama), "--task", "word-problems", "--method", "lora", "--rank", "2",
        "--lr", "1e-2", "--steps", "20", "--max-eval-samples", "2", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    first = _run(*options)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("lora on word-problems: 20 steps in ")
    assert "step 20/20 loss" in first.stderr
    assert "\r" not in first.stderr, "no progress bar where there is no terminal"
    assert (tmp_path / "run" / "adapter_config.json").is_file()
    second = _run(*options)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert "step" not in second.stderr, "a finished run is not repeated"


def test_errors_are_one_line_and_leave_nothing(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ["finetune", "--base", str(llama), "--out", str(out), "--steps", "2"]
    cases = [
        (["--task", "word-problem"], "did you mean 'word-problems'?"),
        (["--task", "word-problems", "--method", "lorra"], "did you mean 'lora'?"),
        (["--task", str(tmp_path / "none.csv"), "--text", "a", "--label", "b"], "does not exist"),
        (["--task", "word-problems", "--max-length", "9999"], "the model has 512 positions"),
    ]
    for options, said in cases:
        done = _run(*common, *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (out / "run.json").exists()
