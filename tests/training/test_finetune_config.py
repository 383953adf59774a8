"""Settings by short and long names, from YAML, and every way in which they can be wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from intruders.errors import SettingError
from intruders.training.finetune_config import FinetuneConfig

_BASE = {"base": "b", "task": "word-problems", "out": "o", "steps": 10}


def test_trainers_and_pefts_own_names_are_understood() -> None:
    found = FinetuneConfig.from_mapping(
        {
            "model_name_or_path": "b", "task": "t", "output_dir": "o", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1,
            "learning_rate": 1e-3, "max_steps": 7, "per_device_train_batch_size": 2,
        },
        where="test",
    )  # fmt: skip
    given = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "lr": 1e-3, "steps": 7, "batch_size": 2}
    assert found == FinetuneConfig(base="b", task="t", out="o", **given)


def test_yaml_is_read_and_options_go_over_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    # YAML takes 1e-3 for text; people write it all the same.
    file.write_text(
        "base: b\ntask: t\nout: o\nlearning_rate: 1e-3\nsteps: 10\ntarget-modules: [q_proj, v_proj]\n"
    )
    found = FinetuneConfig.from_file(file, lr=2e-3, seed=5)
    assert (found.lr, found.seed, found.target_modules) == (2e-3, 5, ("q_proj", "v_proj"))
    assert FinetuneConfig.from_file(file).lr == 1e-3


def test_names_of_modules_have_commas_between_and_a_pattern_is_left_alone() -> None:
    def given(value: str) -> str | tuple[str, ...]:
        settings = {"base": "b", "task": "t", "out": "o", "steps": 1, "target_modules": value}
        return FinetuneConfig.from_mapping(settings, where="options").target_modules

    assert given("query,output.dense") == ("query", "output.dense")
    assert given("all-linear") == "all-linear"
    assert given(r".*\.(q|v)_proj") == r".*\.(q|v)_proj"


def test_what_was_done_can_be_done_again(tmp_path: Path) -> None:
    given = {"text": ("a", "b"), "label": "y", "match": "accuracy=0.5", "eval_steps": 3, "audit_steps": 2}
    config = FinetuneConfig(base="b", task="t", out="o", steps=3, **given)
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    assert FinetuneConfig.from_file(file) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rat": 1}, "'learning_rat' is not a setting; did you mean 'learning_rate'?"),
        ({"lr": 1, "learning_rate": 1}, "'learning_rate' sets 'lr' a second time"),
        ({"base": ""}, "base must be given"),
        ({"rank": 0}, "rank is 0; expected 1 or more"),
        ({"rank": 1.5}, "rank is 1.5; expected a whole number"),
        ({"lr": "fast"}, "lr is 'fast'; expected a number"),
        ({"lr": 0}, "lr is 0.0; expected a positive number"),
        ({"lr": float("nan")}, "lr is nan; expected a positive number"),
        ({"warmup_steps": float("inf")}, "warmup_steps is inf; expected 0 or more"),
        ({"steps": None, "epochs": float("inf")}, "epochs is inf; expected a positive number"),
        ({"alpha": float("inf")}, "alpha is inf; expected a positive number"),
        ({"alpha": "2x"}, "alpha is '2x'; expected a positive number, or a multiple of the rank"),
        ({"alpha": -1}, "alpha is -1.0"),
        ({"dropout": 1}, "dropout is 1.0; expected 0 or more and below 1"),
        ({"method": "lorra"}, "method 'lorra' is not known; did you mean 'lora'?"),
        ({"epochs": 2}, "steps is 10 and epochs is 2.0; expected one of the two"),
        ({"steps": None}, "neither steps nor epochs is given"),
        ({"match": "loss=1"}, "match is 'loss=1'; expected accuracy=NUMBER"),
        ({"match": "accuracy=90"}, "match is 'accuracy=90'"),
        ({"precision": "int8"}, "precision is 'int8'; expected one of auto, fp32, bf16, fp16"),
        ({"init_a": "orthonormal"}, "which is for lora-fa and b-only; method is 'lora'"),
        ({"train_all": True}, "train_all is for method full"),
        ({"train_all": "yes"}, "train_all is 'yes'; expected true or false"),
        ({"stop_above": 3}, "no audits are made; pass audit_steps too"),
        ({"keep_intruders_below": 3}, "keep_intruders_below is 3, but no audits are made; pass audit_steps"),
        ({"loss_on": "pydoc"}, "loss_on is 'pydoc', but no audits are made"),
        ({"audit_steps": 1, "keep_forgetting_below": 0.1}, "is 0.1, but no loss is measured; pass loss_on"),
        ({"audit_steps": 1, "go_on_over_limit": True}, "go_on_over_limit is given without a limit"),
        ({"method": "full", "load_in": "4bit"}, "load_in is '4bit', but method 'full' needs the base's own"),
        (
            {"method": "pissa", "load_in": "4bit"},
            "load_in is '4bit', but method 'pissa' needs the base's own",
        ),
        ({"method": "milora", "load_in": "4bit"}, "load_in is '4bit', but method 'milora' needs the base's"),
        ({"method": "oplora", "load_in": "4bit"}, "load_in is '4bit', but method 'oplora' needs the base's"),
        ({"method": "full", "start_from": "a"}, "which method 'full' cannot go on from"),
        ({"budget": 1, "load_in": "4bit"}, "budget is 1.0, and load_in is '4bit'"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; expected a whole number from 0 to 4294967295"),
        ({"base": ["a"]}, "base is ['a']; expected text"),
    ],
)
def test_bad_settings_are_quoted(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        FinetuneConfig.from_mapping(_BASE | settings, where="test")


@pytest.mark.parametrize(
    ("text", "said"), [("- a\n", "contains a list"), ("a: [", "is not YAML"), ("", "contains a NoneType")]
)
def test_bad_files_are_said(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingError, match=said):
        FinetuneConfig.from_file(file)
    with pytest.raises(SettingError, match="cannot be read"):
        FinetuneConfig.from_file(tmp_path / "none.yaml")
