"""A tiny base with an adapter that has intruders."""

from pathlib import Path

import pytest

from tests.checkpoints.models import saved
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("models")
    save_llama(path / "base")
    model = hot_llama(model=AutoModelForCausalLM.from_pretrained(path / "base"))
    saved(model, path / "tuned")
    return path
