"""Whole runs on tiny models: what the folder holds, the same again, after a kill, and when it goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny import save_bert, save_llama
from transformers import TrainerCallback

from intruders.errors import IntrudersError, NonFiniteError, SettingError
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.run_folder import RunFolder
from intruders.training.run_settings import METHODS
from tests.commands import in_this_process


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def _config(base: Path, out: Path, **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "task": "word-problems",
        "rank": 2,
        "lr": 1e-2,
        "steps": 6,
        "batch_size": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "max_train_samples": 40,
        "max_eval_samples": 4,
        "oplora_k": 4,
        "precision": "fp32",
    } | settings
    return FinetuneConfig(base=str(base), out=str(out), **given)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return load_file(folder / name)
    raise AssertionError(f"no model in {folder}: {list(folder.iterdir())}")


def _assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def whole(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by the settings of ``_config`` that nothing disturbed, to compare others with."""
    return finetune(_config(llama, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_saved_is_what_was_trained(method: str, llama: Path, tmp_path: Path) -> None:
    """The saved model, merged by PEFT onto the base as it is on disk, computes what training left."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    class KeepLogits(TrainerCallback):  # type: ignore[misc]
        logits: torch.Tensor

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with torch.no_grad():
                self.logits = model.eval()(input_ids=torch.arange(5, 45)[None]).logits

    seen = KeepLogits()
    run = finetune(_config(llama, tmp_path / "run", method=method), [seen])
    base = AutoModelForCausalLM.from_pretrained(llama)
    before = base(input_ids=torch.arange(5, 45)[None]).logits
    if method == "full":
        model = AutoModelForCausalLM.from_pretrained(run.path)
    else:
        model = PeftModel.from_pretrained(base, run.path).merge_and_unload()
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.arange(5, 45)[None]).logits
    torch.testing.assert_close(logits, seen.logits, atol=1e-4, rtol=1e-3)
    assert (before - logits).abs().max() > 1e-3, "training changed the model"


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "olora"])
def test_a_classifiers_head_is_saved_with_its_adapter(method: str, bert: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    class KeepLogits(TrainerCallback):  # type: ignore[misc]
        logits: torch.Tensor

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with torch.no_grad():
                self.logits = model.eval()(input_ids=torch.arange(5, 45)[None]).logits

    seen = KeepLogits()
    run = finetune(
        _config(bert, tmp_path / "run", task="pydoc-topics-1", max_length=64, method=method), [seen]
    )
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=4)
    model = PeftModel.from_pretrained(base, run.path).merge_and_unload().eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(5, 45)[None]).logits
    torch.testing.assert_close(logits, seen.logits, atol=1e-4, rtol=1e-3)
    assert run.record["task"]["labels"] == ["assignment", "debugger", "specialnames", "typesseq"]


def test_the_folder_says_what_was_done(llama: Path, whole: RunFolder) -> None:
    run, record = whole, whole.record
    assert record["status"] == "finished"
    assert record["config"] == json.loads(json.dumps(_config(llama, whole.path).recorded()))
    # As in folders of versions that did not know it: where it is the default, these can be gone on with.
    assert "kl_to_base" not in record["config"]
    assert {"python", "torch", "transformers", "peft", "intruders"} <= record["versions"].keys()
    assert record["task"]["data"]["train"]["rows"] == 40
    assert len(record["task"]["data"]["train"]["sha256"]) == 64
    assert record["steps"] == 6
    assert record["stopped_by"] == "steps"
    assert record["seconds"]["training"] > 0
    assert record["validation"]["examples"] == 4
    assert [entry["step"] for entry in run.log if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert not run.checkpoints.exists()
    adapter = json.loads((run.path / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(llama)


def test_the_same_seed_gives_the_same_model(llama: Path, tmp_path: Path) -> None:
    one = finetune(_config(llama, tmp_path / "one", dropout=0.1))
    same = finetune(_config(llama, tmp_path / "same", dropout=0.1))
    other = finetune(_config(llama, tmp_path / "other", dropout=0.1, seed=1))
    _assert_equal(_weights(one.path), _weights(same.path))
    assert one.log[-2]["loss"] == same.log[-2]["loss"]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(_weights(one.path).values(), _weights(other.path).values(), strict=True)
    )


@pytest.mark.parametrize("method", ["full", "lora", "pissa", "lora-fa", "lora+"])
def test_an_interrupted_run_ends_as_one_that_was_not(method: str, llama: Path, tmp_path: Path) -> None:
    class Interrupt(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    settings: dict[str, Any] = {"method": method, "dropout": 0.1 if method != "full" else 0.0, "steps": 8}
    whole = finetune(_config(llama, tmp_path / "whole", **settings))
    config = _config(llama, tmp_path / "killed", **settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    assert RunFolder(tmp_path / "killed").last_checkpoint() is not None
    killed = finetune(config)
    _assert_equal(_weights(whole.path), _weights(killed.path))
    losses = [[(e["step"], e["loss"]) for e in run.log if "loss" in e] for run in (whole, killed)]
    assert losses[0] == losses[1]


# A process for every line on standard input, forked from one that has loaded what training needs.
TRAINERS = """
import json, os, sys
import peft, transformers.trainer
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.finetune import finetune
config = FinetuneConfig.from_mapping(json.loads(sys.argv[1]), where="test")
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        try:
            finetune(config)
        finally:
            os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


def test_a_killed_process_goes_on(llama: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of training, again and again, then the model of an uninterrupted run."""
    settings = {"steps": 30, "save_steps": 3, "dropout": 0.1, "max_eval_samples": 1}
    whole = finetune(_config(llama, tmp_path / "whole", **settings))
    out = tmp_path / "killed"
    given = json.dumps(_config(llama, out, **settings).as_dict())
    kills = 0
    with subprocess.Popen(
        [sys.executable, "-c", TRAINERS, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as trainers:
        assert trainers.stdin is not None
        assert trainers.stdout is not None
        for _ in range(4):
            marks = len(list(out.glob("checkpoints/*/complete.json")))
            print(file=trainers.stdin, flush=True)
            process = int(trainers.stdout.readline())
            # Soon after a further checkpoint: some kills land in training, some in saving.
            while kills < 2 and Path(f"/proc/{process}").exists():
                if len(list(out.glob("checkpoints/*/complete.json"))) > marks:
                    time.sleep(0.02 * (kills + 1))
                    os.kill(process, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            assert trainers.stdout.readline() == "over\n"
            if RunFolder(out).is_finished:
                break
        trainers.stdin.close()
    assert kills >= 1
    assert RunFolder(out).is_finished
    _assert_equal(_weights(whole.path), _weights(out))


def test_a_checkpoint_cut_off_in_saving_is_not_resumed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (2, 4):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    run.mark_complete(2, seconds=1.5)
    assert run.last_checkpoint() == (run.checkpoints / "checkpoint-2", 1.5)
    assert not (run.checkpoints / "checkpoint-4").exists()


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(
    llama: Path, whole: RunFolder, tmp_path: Path
) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.path.rglob("*")}
    finetune(_config(llama, whole.path))
    assert {file: file.stat().st_mtime_ns for file in whole.path.rglob("*")} == before
    with pytest.raises(SettingError, match=r"other settings \(lr, rank\)"):
        finetune(_config(llama, whole.path, rank=3, lr=1e-3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(SettingError, match="not empty and not a run"):
        finetune(_config(llama, tmp_path / "mine"))


def test_two_processes_do_not_share_a_folder(llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "run")

    class Second(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with pytest.raises(SettingError, match="another process"):
                finetune(config)

    assert finetune(config, [Second()]).is_finished


def test_training_stops_at_the_accuracy_to_match(bert: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"{'aaaa' if i % 2 else 'zzzz'}\t{i % 2}\n" for i in range(60)))
    run = finetune(
        _config(
            bert, tmp_path / "run", task=f"{rows}?text=text&label=label", method="full", lr=3e-3, steps=200,
            match="accuracy=1.0", eval_steps=5, max_eval_samples=None, save_steps=1000, batch_size=8,
        )
    )  # fmt: skip
    record = run.record
    assert record["stopped_by"] == "match"
    assert record["steps"] < 200
    assert record["steps"] % 5 == 0
    assert record["validation"]["accuracy"] == 1.0
    seen = [entry["validation_accuracy"] for entry in run.log if "validation_accuracy" in entry]
    assert seen[-1] == 1.0
    assert all(value < 1.0 for value in seen[:-1])
    assert record["task"]["labels"] == ["0", "1"]


class KillAtTheEnd(TrainerCallback):  # type: ignore[misc]
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_a_run_that_is_killed_after_its_last_step_takes_no_further_one(
    llama: Path, whole: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(_config(llama, tmp_path / "killed"), [KillAtTheEnd()])
    killed = finetune(_config(llama, tmp_path / "killed"))
    assert killed.record["steps"] == whole.record["steps"] == 6
    _assert_equal(_weights(whole.path), _weights(killed.path))


def test_a_matched_run_that_is_killed_at_its_end_stops_at_the_same_step(bert: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"{'aaaa' if i % 2 else 'zzzz'}\t{i % 2}\n" for i in range(60)))
    settings: dict[str, Any] = {
        "task": f"{rows}?text=text&label=label", "method": "full", "lr": 3e-3, "steps": 200, "batch_size": 8,
        "match": "accuracy=1.0", "eval_steps": 5, "save_steps": 5, "max_eval_samples": None,
    }  # fmt: skip

    whole = finetune(_config(bert, tmp_path / "whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        finetune(_config(bert, tmp_path / "killed", **settings), [KillAtTheEnd()])
    killed = finetune(_config(bert, tmp_path / "killed", **settings))
    assert killed.record["steps"] == whole.record["steps"]
    assert killed.record["stopped_by"] == "match"
    _assert_equal(_weights(whole.path), _weights(killed.path))


def test_what_trainer_refuses_is_one_line(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="wavy is not a valid SchedulerType"):
        finetune(_config(llama, tmp_path / "run", lr_scheduler_type="wavy"))
    with pytest.raises(SettingError, match="transformers refuses these settings"):
        finetune(_config(llama, tmp_path / "run", report_to=("nowhere",)))


def test_a_loss_that_is_no_number_stops_the_run(llama: Path, tmp_path: Path) -> None:
    class Poison(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 4:
                trained = [p for p in model.parameters() if p.requires_grad]
                trained[0].data.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match=r"nan at step 5; the last good checkpoint is '.*checkpoint-2'"):
        finetune(_config(llama, tmp_path / "run"), [Poison()])
    kept = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert all(
        bool(value.isfinite().all()) for value in load_file(kept / "adapter_model.safetensors").values()
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
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
    with pytest.raises(IntrudersError, match=r"the disk of .* is full"):
        finetune(_config(llama, tmp_path / "run"))
    monkeypatch.undo()
    _assert_equal(_weights(finetune(_config(llama, tmp_path / "run")).path), _weights(whole.path))


def test_a_prompt_longer_than_the_context(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"row \d+ of the train split .* more than the context of 100"):
        finetune(_config(llama, tmp_path / "run", max_length=100))
    with pytest.raises(SettingError, match="no row of the train split"):
        finetune(_config(llama, tmp_path / "none", max_length=20, drop_too_long=True))
    with pytest.raises(SettingError, match="the model has 512 positions"):
        finetune(_config(llama, tmp_path / "more", max_length=1000))


class Interrupt(TrainerCallback):  # type: ignore[misc]
    """Stops a run after its third step, when one checkpoint is complete."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def _rows(file: Path, numbers: range, **lengths: int) -> Path:
    """Rows with a prompt and a completion, of 6 tokens where no other length is given by line."""
    wanted = {int(line.removeprefix("line")): length for line, length in lengths.items()}
    rows = [{"p": f"{i:03}", "c": "x" * (wanted.get(line, 6) - 4)} for line, i in enumerate(numbers, start=1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _on(file: Path, **others: Any) -> dict[str, Any]:
    return {"task": str(file), "prompt": "p", "completion": "c", "max_train_samples": None} | others


def test_other_data_than_before_are_refused_and_the_record_stays(llama: Path, tmp_path: Path) -> None:
    file = _rows(tmp_path / "rows.jsonl", range(60))
    config = _config(llama, tmp_path / "run", **_on(file))
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    before = (tmp_path / "run" / "run.json").read_bytes()
    _rows(file, range(40))
    with pytest.raises(
        SettingError, match=r"other data \(train split of task 'rows.jsonl': 54 rows then, 36 now\)"
    ):
        finetune(config)
    _rows(file, range(1, 61))
    with pytest.raises(
        SettingError, match=r"\(train split of task 'rows.jsonl': 54 rows, of another content\)"
    ):
        finetune(config)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    _rows(file, range(60))
    assert finetune(config).record["steps"] == 6
    _rows(file, range(40))
    with pytest.raises(SettingError, match="contains a run on other data"):
        finetune(config)


def test_another_base_than_before_is_refused(llama: Path, tmp_path: Path) -> None:
    base = shutil.copytree(llama, tmp_path / "base")
    config = _config(base, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    (base / "audit.json").write_text("{}")  # is not what the model computes by
    weights = load_file(base / "model.safetensors")
    save_file(
        {name: -tensor for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(
        SettingError, match="contains a run from another base, whose files have changed since"
    ):
        finetune(config)
    shutil.copy(llama / "model.safetensors", base)
    assert finetune(config).is_finished


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"match": "accuracy=0.5", "eval_steps": 7}, "eval_steps is 7, and the run has 6 steps"),
        ({"warmup_steps": 6}, "warmup_steps is 6, and the run has 6 steps"),
        ({"steps": None, "epochs": 0.5, "warmup_steps": 10}, "warmup_steps is 10, and the run has 10 steps"),
        (
            {"steps": None, "epochs": 0.5, "match": "accuracy=0.5", "eval_steps": 11},
            "eval_steps is 11, and the run has 10 steps",
        ),
    ],
)
def test_what_a_run_would_never_come_to_is_refused(
    settings: dict[str, Any], said: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=said):
        finetune(_config(llama, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_steps_that_are_checked_are_those_that_trainer_takes(llama: Path, tmp_path: Path) -> None:
    for number, (epochs, accumulated) in enumerate([(0.3, 3), (1.0, 3)]):
        settings = {
            "steps": None,
            "epochs": epochs,
            "gradient_accumulation_steps": accumulated,
            "batch_size": 4,
        }
        run = finetune(_config(llama, tmp_path / str(number), **settings))
        with pytest.raises(SettingError, match=f"and the run has {run.record['steps']} steps"):
            finetune(_config(llama, tmp_path / "none", warmup_steps=99, **settings))


def test_a_match_that_is_not_reached_is_said(llama: Path, tmp_path: Path) -> None:
    run = finetune(_config(llama, tmp_path / "run", match="accuracy=1.0", eval_steps=3))
    assert "accuracy 0.000 on 4 validation rows, accuracy=1.0 was not reached; model in" in run.summary()


def test_rows_that_are_too_long_to_be_scored_are_known_before_the_first_step(
    llama: Path, tmp_path: Path
) -> None:
    train = _rows(tmp_path / "train.jsonl", range(20), line3=40)
    validation = _rows(tmp_path / "validation.jsonl", range(20, 24), line2=40)
    settings = _on(_rows(tmp_path / "short.jsonl", range(20)), validation_file=str(validation), max_length=20)
    said = r"line 2 of validation.jsonl \(the validation split of task 'short.jsonl'\) has 3 tokens of prompt and 37"
    with pytest.raises(SettingError, match=said):
        finetune(_config(llama, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "run.json").exists()
    run = finetune(_config(llama, tmp_path / "run", **settings | {"task": str(train), "drop_too_long": True}))
    assert run.record["task"]["too_long"] == {"train": 1, "validation": 1}
    assert run.record["validation"]["examples"] == 3
    assert "1 training and 1 validation rows longer than the context left out" in run.summary()
    every = _rows(tmp_path / "every.jsonl", range(2), line1=40, line2=40)
    given = settings | {"validation_file": str(every), "drop_too_long": True}
    with pytest.raises(SettingError, match="no row of the validation split of task"):
        finetune(_config(llama, tmp_path / "none", **given))


def test_a_model_that_cannot_be_scored_is_kept_with_the_command_that_scores_it(
    llama: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intruders.training import finetune as module

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "outcomes", fail)
    with pytest.raises(IntrudersError, match=r"is trained and is in .*RuntimeError: out of memory") as caught:
        finetune(_config(llama, tmp_path / "run"))
    monkeypatch.undo()
    _assert_equal(_weights(tmp_path / "run"), _weights(whole.path))
    run = finetune(_config(llama, tmp_path / "run"))
    assert run.is_finished
    assert run.record["validation"] == {"accuracy": None, "examples": 0}
    command = shlex.split(str(caught.value).rpartition("score it with: ")[2])
    done = in_this_process(*command[1:])
    assert done.returncode == 0, done.stderr
    accuracy = whole.record["validation"]["accuracy"]
    assert done.stdout.startswith(f"accuracy on word-problems, validation (4 examples): {accuracy:.4f}")


def test_a_model_is_saved_before_it_is_scored(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intruders.training import finetune as module

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "outcomes", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(_config(llama, tmp_path / "run"))
    assert _weights(tmp_path / "run")


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(
    llama: Path, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began after this one had seen an empty folder, and was over before this one asked for the lock."""
    out = tmp_path / "run"
    lock = RunFolder.locked

    def late(run: RunFolder) -> Any:
        monkeypatch.setattr(RunFolder, "locked", lock)
        shutil.copytree(whole.path, out, dirs_exist_ok=True)
        return lock(run)

    monkeypatch.setattr(RunFolder, "locked", late)
    run = finetune(_config(llama, out), [KillAtTheEnd()])
    assert run.record == whole.record


def test_a_model_learns_to_answer_in_conversations(llama: Path, tmp_path: Path) -> None:
    base = shutil.copytree(llama, tmp_path / "base")
    rows = tmp_path / "chat.jsonl"
    talk = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "a"}]
    rows.write_text((json.dumps({"messages": talk}) + "\n") * 40)
    settings: dict[str, Any] = {
        "task": str(rows), "messages": "messages", "method": "full", "train_all": True, "lr": 1e-2, "steps": 40,
        "batch_size": 4, "match": "accuracy=1.0", "eval_steps": 5,
    }  # fmt: skip
    with pytest.raises(
        SettingError, match=r"line \d+ of chat.jsonl is a conversation, and the tokenizer has no chat"
    ):
        finetune(_config(base, tmp_path / "run", **settings))
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    run = finetune(_config(base, tmp_path / "run", **settings))
    assert run.record["stopped_by"] == "match"
    done = in_this_process("evaluate", run.path, "--task", f"{rows}?messages=messages")
    assert "1.0000" in done.stdout, done.stderr
