"""Adapters of a base that is a revision on the hub name it as PEFT does, so that PEFT itself loads that revision."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from intruders.mitigation.mitigate import mitigate
from intruders.training.finetune import finetune
from tests.hub_cache import hub_with_base
from tests.tiny import short_task
from tests.training.tiny_runs import config_of

WEIGHT = "model.layers.0.input_layernorm.weight"  # of no adapter here


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that revision v1 of org/base was made from; its main has other weights."""
    hub_with_base(tmp_path, monkeypatch)
    return tmp_path / "older"


def assert_is_on(base: Path, adapter: Path) -> None:
    loaded = AutoPeftModelForCausalLM.from_pretrained(adapter)
    config = loaded.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("org/base", "v1")
    weight = AutoModelForCausalLM.from_pretrained(base).state_dict()[WEIGHT]
    assert torch.equal(loaded.get_base_model().state_dict()[WEIGHT], weight)


def test_a_trained_adapter(older: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # PEFT cannot know that offline.
        warnings.filterwarnings("error", message=".*vocabulary was not modified")
        finetune(config_of(Path("org/base@v1"), tmp_path / "run", steps=2, task=short_task(tmp_path)))
    assert_is_on(older, tmp_path / "run")


def test_an_adapter_that_is_written_of_a_checkpoint(older: Path, tmp_path: Path) -> None:
    mitigate("org/base@v1", tmp_path / "main", scale=1.0, form="adapter", rank=2, out=tmp_path / "out")
    assert_is_on(older, tmp_path / "out")
