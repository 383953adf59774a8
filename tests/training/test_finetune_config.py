"""Settings by short and long names, from YAML, and every way in which they can be wrong."""

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


def test_what_was_done_can_be_done_again(tmp_path: Path) -> None:
    given = {"text": ("a", "b"), "label": "y", "match": "accuracy=0.5", "eval_steps": 3, "audit_steps": 2}
    config = FinetuneConfig(base="b", task="t", out="o", steps=3, **given)
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    assert FinetuneConfig.from_file(file) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": float("inf")}, "alpha is inf; expected a positive number"),
        ({"alpha": "2x"}, "alpha is '2x'; expected a positive number, or a multiple of the rank"),
        ({"alpha": -1}, "alpha is -1.0"),
        ({"epochs": 2}, "steps is 10 and epochs is 2.0; expected one of the two"),
        ({"steps": None}, "neither steps nor epochs is given"),
        ({"match": "loss=1"}, "match is 'loss=1'; expected accuracy=NUMBER"),
        ({"match": "accuracy=90"}, "match is 'accuracy=90'"),
        ({"init_a": "orthonormal"}, "which is for lora-fa and b-only; method is 'lora'"),
        ({"train_all": True}, "train_all is for method full"),
        ({"stop_above": 3}, "no audits are made; pass audit_steps too"),
        ({"keep_intruders_below": 3}, "keep_intruders_below is 3, but no audits are made; pass audit_steps"),
        ({"loss_on": "pydoc"}, "loss_on is 'pydoc', but no audits are made"),
        ({"audit_steps": 1, "keep_forgetting_below": 0.1}, "is 0.1, but no loss is measured; pass loss_on"),
        ({"audit_steps": 1, "go_on_over_limit": True}, "go_on_over_limit is given without a limit"),
        ({"method": "full", "load_in": "4bit"}, "load_in is '4bit', but method 'full' needs the base's own"),
        ({"method": "pissa", "load_in": "4bit"}, "load_in is '4bit', but method 'pissa' needs the base's"),
        ({"method": "full", "start_from": "a"}, "which method 'full' cannot go on from"),
        ({"budget": 1, "load_in": "4bit"}, "budget is 1.0, and load_in is '4bit'"),
        ({"seed": 2**32}, "seed is 4294967296; expected a whole number from 0 to 4294967295"),
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
