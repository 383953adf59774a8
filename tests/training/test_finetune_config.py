"""Every way in which the settings of a run can be wrong."""

import re
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import SettingError
from intruders.training.finetune_config import FinetuneConfig

_BASE = {"base": "b", "task": "word-problems", "out": "o", "steps": 10}


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
        ({"replay": "pydoc"}, "expected CORPUS@SHARE"),
        ({"replay": "pydoc@0"}, "expected CORPUS@SHARE"),
        ({"replay": "pydoc@1"}, "expected CORPUS@SHARE"),
        ({"replay": "pydoc@much"}, "expected CORPUS@SHARE"),
        ({"replay": "@0.5"}, "expected CORPUS@SHARE"),
        ({"replay": "pydoc@0.1", "batch_size": 4}, "which is 0 of the 4 rows of a batch"),
        ({"replay": "pydoc@0.9", "batch_size": 4}, "which is 4 of the 4 rows of a batch"),
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
