"""Runs that are stopped, killed or without room on the disk: the next call ends as if nothing had happened."""

import errno
import os
import shlex
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors import SafetensorError

from intruders.errors import DiskFullError, IntrudersError, SettingError
from intruders.system.folders import locked_folder
from intruders.training import arguments
from intruders.training.finetune import finetune
from intruders.training.run_folder import RunFolder
from tests.commands import in_this_process
from tests.training.tiny_runs import Interrupt, assert_equal, config_of, matched, weights_of, when

SCORING = "intruders.training.finetune.graded"


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "replays"),
    [
        *((method, False) for method in ("full", "lora", "pissa", "lora-fa", "lora+")),
        ("full", True),
        ("lora", True),
    ],
)
def test_an_interrupted_run_ends_as_others(method: str, replays: bool, llama: Path, tmp_path: Path) -> None:
    """One that replays a text is interrupted twice: in its first epoch, of 5 steps, and in the second."""
    settings: dict[str, Any] = {"method": method, "dropout": 0.1 if method != "full" else 0.0, "steps": 4}
    if replays:
        (tmp_path / "known.txt").write_text("alpha beta gamma delta\n\n" * 400)
        settings |= {"replay": f"{tmp_path / 'known.txt'}@0.25", "max_length": 64, "steps": 9}
        settings |= {"batch_size": 4, "max_train_samples": 14, "max_eval_samples": 1}
    whole = finetune(config_of(llama, tmp_path / "whole", **settings))
    config = config_of(llama, tmp_path / "killed", **settings)
    for step in (3, 7) if replays else (3,):
        with pytest.raises(KeyboardInterrupt):
            finetune(config, [Interrupt(step)])
        assert RunFolder(tmp_path / "killed").last_checkpoint() is not None
    killed = finetune(config)
    assert_equal(weights_of(whole.path), weights_of(killed.path))
    losses = [[(e["step"], e["loss"]) for e in run.log if "loss" in e] for run in (whole, killed)]
    assert losses[0] == losses[1]


def test_a_run_keeps_its_precision(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finetune(config_of(llama, tmp_path / "whole", precision="fp32", steps=4))
    config = config_of(llama, tmp_path / "moved", precision="auto", steps=4)
    monkeypatch.setattr(arguments, "precision_here", lambda: "fp32")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    monkeypatch.setattr(arguments, "precision_here", lambda: "bf16")
    with pytest.raises(SettingError, match=r"a run with other settings \(precision\)"):
        finetune(replace(config, precision="bf16"))
    moved = finetune(config)
    assert moved.record["precision"] == "fp32"
    assert moved.record["config"]["precision"] == "auto"  # what was asked for
    assert_equal(weights_of(whole.path), weights_of(moved.path))
    assert finetune(replace(config, precision="fp32")).is_finished  # what auto was


def test_a_run_needs_no_temporary_files(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have none, or a small one: PiSSA's start is as large as the adapter, and is kept in the run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    run = finetune(config_of(llama, tmp_path / "run", method="pissa", steps=2))
    assert run.is_finished
    assert [file.name for file in run.path.iterdir() if file.name.startswith(".")] == [".lock"]


def test_a_run_in_the_home_is_resumed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers writes its checkpoints to the home for ``~``, so the record has to be there too."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    config = config_of(llama, Path("~/run"), steps=4)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    assert RunFolder.load("~/run").last_checkpoint() is not None
    assert finetune(config).path == tmp_path / "home" / "run"
    assert (tmp_path / "home" / "run" / "adapter_model.safetensors").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]


def test_a_checkpoint_cut_off_in_saving_is_not_resumed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (2, 4):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    run.mark_complete(2, seconds=1.5)
    last = (run.checkpoints / "checkpoint-2", 1.5)
    for mark in (None, '{"step": null, "seconds": 1}', "[]", "{}", "{"):
        if mark is not None:
            (run.checkpoints / "checkpoint-4" / "complete.json").write_text(mark)
        assert run.last_checkpoint() == last
    run.remove_incomplete_checkpoints()
    assert list(run.checkpoints.iterdir()) == [last[0]]
    assert run.last_checkpoint() == last


def test_a_second_call_that_is_stopped_leaves_the_checkpoint_that_the_first_one_writes(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    for step in (2, 4):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    run.mark_complete(2, seconds=1.5)
    monkeypatch.setattr("intruders.training.finetune.finetune", stop)
    given = ["--base", llama, "--task", "word-problems", "--steps", "2", "--out", run.path]
    with locked_folder(run.path):
        done = in_this_process("finetune", *given)
    assert "the run is kept up to step 2" in done.stderr
    assert (run.checkpoints / "checkpoint-4").is_dir()


@pytest.mark.parametrize("is_matched", [False, True])
def test_a_run_killed_at_its_end_goes_no_further(
    is_matched: bool, llama: Path, bert: Path, tmp_path: Path
) -> None:
    settings = {**matched(tmp_path), "save_steps": 5} if is_matched else {}
    base = bert if is_matched else llama
    whole = finetune(config_of(base, tmp_path / "whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        finetune(config_of(base, tmp_path / "killed", **settings), [when("train_end", stop)])
    killed = finetune(config_of(base, tmp_path / "killed", **settings))
    assert killed.record["steps"] == whole.record["steps"]
    assert killed.record["stopped_by"] == whole.record["stopped_by"] == ("match" if is_matched else "steps")
    assert_equal(weights_of(whole.path), weights_of(killed.path))


def test_a_run_that_is_stopped_while_it_removes_its_checkpoints_is_finished_and_loses_them_later(
    llama: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    remove = shutil.rmtree

    def stop_at_checkpoints(folder: Any, **kwargs: Any) -> None:
        if Path(folder) == run.checkpoints and run.is_finished:
            raise KeyboardInterrupt
        remove(folder, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", stop_at_checkpoints)
    with pytest.raises(KeyboardInterrupt):
        finetune(config_of(llama, run.path))
    monkeypatch.undo()
    assert run.checkpoints.is_dir()
    assert run.how_to_resume() == f"the run is finished; its model is in {run.path}"
    finetune(config_of(llama, run.path), [when("train_end", stop)])  # which trains nothing
    assert not run.checkpoints.exists()
    assert_equal(weights_of(run.path), weights_of(whole.path))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        # What torch.save raises on a full tmpfs.
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 25536 vs 25424"),
    ],
)
def test_a_full_disk_is_said_and_the_run_goes_on_later(
    error: Exception, llama: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = transformers.Trainer._save_optimizer_and_scheduler

    def fill(trainer: Any, folder: str) -> None:
        if trainer.state.global_step == 4:
            raise error
        saved(trainer, folder)

    monkeypatch.setattr("transformers.Trainer._save_optimizer_and_scheduler", fill)
    with pytest.raises(DiskFullError, match=r"the disk of .* is full"):
        finetune(config_of(llama, tmp_path / "run"))
    monkeypatch.undo()
    assert_equal(weights_of(finetune(config_of(llama, tmp_path / "run")).path), weights_of(whole.path))


def test_a_model_that_cannot_be_scored_is_kept_with_the_command_that_scores_it(
    llama: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(SCORING, stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(config_of(llama, tmp_path / "run"))
    assert_equal(weights_of(tmp_path / "run"), weights_of(whole.path))  # saved before it is scored
    monkeypatch.setattr(SCORING, fail)
    with pytest.raises(IntrudersError, match=r"is trained and is in .*RuntimeError: out of memory") as caught:
        finetune(config_of(llama, tmp_path / "run"))
    monkeypatch.undo()
    run = finetune(config_of(llama, tmp_path / "run"))
    assert run.is_finished
    assert run.record["validation"] == {"accuracy": None, "examples": 0}
    command = shlex.split(str(caught.value).rpartition("score it with: ")[2])
    done = in_this_process(*command[1:])
    assert done.returncode == 0, done.stderr
    accuracy = whole.record["validation"]["accuracy"]
    said = "accuracy on sums.jsonl, the tenth held out of the file (4 examples): "
    assert done.stdout.startswith(f"{said}{accuracy:.4f}")
