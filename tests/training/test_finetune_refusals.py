"""What a run refuses: other settings, data or a base than before, and what it would never come to."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import SettingError
from intruders.training.finetune import finetune
from tests.training.tiny_runs import config_of, on_rows, rows_file, when


def test_a_folder_of_other_files_is_left_alone(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(SettingError, match="not empty and not a run"):
        finetune(config_of(llama, tmp_path / "mine"))


def test_a_finished_run_whose_model_was_removed_is_refused_and_its_record_stays(
    llama: Path, tmp_path: Path
) -> None:
    config = config_of(llama, tmp_path / "run", steps=1)
    file = finetune(config).path / "adapter_model.safetensors"
    kept = file.rename(tmp_path / "kept")
    record = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(SettingError, match=r"a finished run without its model \(missing: 'adapter_model"):
        finetune(config)
    assert (tmp_path / "run" / "run.json").read_bytes() == record
    kept.rename(file)
    assert finetune(config).is_finished
    shutil.rmtree(tmp_path / "run")
    assert finetune(config).is_finished
    assert file.is_file()


def test_two_processes_do_not_share_a_folder(llama: Path, tmp_path: Path) -> None:
    config = config_of(llama, tmp_path / "run")

    def second(state: Any, model: Any) -> None:
        with pytest.raises(SettingError, match="another process"):
            finetune(config)

    assert finetune(config, [when("step_end", second)]).is_finished


CANNOT_BUILD = r"', which transformers cannot build \(.*"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_scheduler_type": "wavy"}, "wavy is not a valid SchedulerType"),
        ({"report_to": ("nowhere",)}, "transformers refuses these settings"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, f"cosine_with_min_lr{CANNOT_BUILD}min_lr"),
        ({"lr_scheduler_type": "polynomial", "lr": 1e-8}, rf"polynomial{CANNOT_BUILD}1e-08.*; choose linear"),
        ({"task": "word-problems", "max_length": 100}, r"row \d+ of the train split .* the context of 100"),
        ({"max_length": 5, "drop_too_long": True}, "no row of the train split"),
        ({"max_length": 1000}, "the model has 512 positions"),
        ({"match": "accuracy=0.5", "eval_steps": 7}, "eval_steps is 7, and the run has 6 steps"),
        ({"steps": None, "epochs": 0.5, "warmup_steps": 10}, "warmup_steps is 10, and the run has 10 steps"),
        ({"steps": None, "epochs": 0.5, "match": "accuracy=0.5", "eval_steps": 11}, "and the run has 10"),
        ({"task": "pydoc-topics", "kl_to_base": 1.0}, "kl_to_base is 1, but task 'pydoc-topics' is class"),
        ({"task": "pydoc-topics", "replay": "pydoc@0.5"}, "classification, whose model has no loss on text;"),
        ({"replay": "pydoc@1+pydoc@1@0.5"}, "mixture of 2 corpora; expected one"),
        ({"task": "pydoc-topics", "loss_on": "pydoc", "audit_steps": 2}, "has no loss on text while it"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_record_is_written(
    settings: dict[str, Any], said: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=said):
        finetune(config_of(llama, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_masked_model_cannot_learn_completions(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="masked language model, which cannot complete"):
        finetune(config_of(bert, tmp_path / "run"))


def test_a_schedule_that_asks_for_more_is_trained_by(llama: Path, tmp_path: Path) -> None:
    assert finetune(config_of(llama, tmp_path / "run", lr_scheduler_type="polynomial", steps=1)).is_finished


def test_the_steps_that_are_checked_are_those_that_trainer_takes(llama: Path, tmp_path: Path) -> None:
    for number, epochs in enumerate((0.3, 1.0)):
        settings = {"steps": None, "epochs": epochs, "gradient_accumulation_steps": 3, "batch_size": 4}
        run = finetune(config_of(llama, tmp_path / str(number), **settings))
        with pytest.raises(SettingError, match=f"and the run has {run.record['steps']} steps"):
            finetune(config_of(llama, tmp_path / "none", warmup_steps=99, **settings))


def test_rows_too_long_to_be_scored_are_known_before_the_first_step(llama: Path, tmp_path: Path) -> None:
    train = rows_file(tmp_path / "train.jsonl", range(20), line3=40)
    validation = rows_file(tmp_path / "validation.jsonl", range(20, 24), line2=40)
    short = rows_file(tmp_path / "short.jsonl", range(20))
    settings = on_rows(short, validation_file=str(validation), max_length=20)
    said = r"line 2 of validation.jsonl \(the validation split of task 'short.jsonl'\) has 3 tokens of prompt and 37"
    with pytest.raises(SettingError, match=said):
        finetune(config_of(llama, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "run.json").exists()
    given = settings | {"task": str(train), "drop_too_long": True}
    run = finetune(config_of(llama, tmp_path / "run", **given))
    assert run.record["task"]["too_long"] == {"train": 1, "validation": 1}
    assert run.record["validation"]["examples"] == 3
    assert "1 training and 1 validation rows longer than the context left out" in run.summary()
    every = rows_file(tmp_path / "every.jsonl", range(2), line1=40, line2=40)
    given = settings | {"validation_file": str(every), "drop_too_long": True}
    with pytest.raises(SettingError, match="no row of the validation split of task"):
        finetune(config_of(llama, tmp_path / "none", **given))


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"method": "milora"}, "method is 'milora', which is a plugin that is not installed; expected"),
        ({"budget": 0.5}, "budget is 0.5, which is a plugin that is not installed; expected"),
        ({"budget_pilot": "pilot"}, "budget_pilot is 'pilot', which is a plugin that is not installed"),
    ],
)
def test_a_method_whose_plugin_is_not_installed_is_refused_before_a_model_is_opened(
    settings: dict[str, Any], refusal: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intruders.training.prepared_run.load_model", None)
    with pytest.raises(SettingError, match=f"^{refusal}.* install it: pip install ./research$"):
        finetune(config_of(llama, tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()
