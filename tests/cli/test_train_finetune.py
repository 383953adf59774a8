"""intruders finetune as a person runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from tests.commands import in_this_process


def test_a_run_and_its_second_call(llama: Path, tmp_path: Path) -> None:
    options = [
        "finetune", "--base", str(llama), "--task", "word-problems", "--method", "lora", "--rank", "2",
        "--lr", "1e-2", "--steps", "20", "--max-train-samples", "40", "--max-eval-samples", "2",
        "--precision", "fp32", "--max-new-tokens", "8", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    first = in_this_process(*options)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("lora on word-problems: 20 steps in ")
    assert re.search(r"step 20/20 loss \d+\.\d{3} up to step 10$", first.stderr, re.MULTILINE)
    assert "\r" not in first.stderr, "no progress bar where there is no terminal"
    assert (tmp_path / "run" / "adapter_config.json").is_file()
    second = in_this_process(*options)
    assert second.returncode == 0
    assert second.stdout == "already finished; nothing was trained\n" + first.stdout
    assert "step" not in second.stderr, "a finished run is not repeated"


def test_an_interrupted_run_says_how_it_goes_on(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "finetune", "--base", str(llama), "--task", "word-problems", "--rank", "2", "--steps", "4",
        "--max-train-samples", "40", "--max-eval-samples", "2", "--save-steps", "2", "--precision", "fp32",
        "--max-new-tokens", "8", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    train = Trainer.training_step
    cases = [
        (1, "interrupted; no checkpoint was complete yet; run the same command again to start over"),
        (3, "interrupted; the run is kept up to step 2; run the same command again to resume from there"),
    ]
    for step, said in cases:

        def interrupted(trainer: Trainer, *args: Any, stop_at: int = step, **kwargs: Any) -> Any:
            if trainer.state.global_step == stop_at:
                raise KeyboardInterrupt
            return train(trainer, *args, **kwargs)

        monkeypatch.setattr(Trainer, "training_step", interrupted)
        done = in_this_process(*options)
        assert done.returncode == 130
        assert done.stderr.splitlines()[-1] == said
    monkeypatch.undo()
    done = in_this_process(*options)
    assert done.returncode == 0
    assert "resuming from step 2 of 4" in done.stderr.splitlines()
    assert "already finished" not in done.stdout


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
        done = in_this_process(*common, *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (out / "run.json").exists()


def test_a_dry_run_predicts_the_room_for_an_update_and_writes_nothing(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ["finetune", "--base", str(llama), "--steps", "2", "--out", str(out), "--dry-run"]
    done = in_this_process(*common, "--task", "word-problems")
    assert done.returncode == 0, done.stderr
    assert "q_proj: " in done.stdout
    assert not out.exists()
    refused = in_this_process(*common, "--task", "pydoc-topics", "--kl-to-base", "0.1")
    assert (refused.returncode, "classification" in refused.stderr) == (2, True)
