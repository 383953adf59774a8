"""Tiny models that no experiment changes, and a text that they are healed on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from intruders.experiments.bench import Bench
from tests.tiny import short_texts

from .healed_models import Models, llama_and_adapter, save_hot


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return llama_and_adapter(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(short_texts(tmp_path_factory.mktemp("text") / "text.jsonl", 8))


@pytest.fixture(scope="session")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter of it with intruders in every linear layer, texts and a task."""
    return save_hot(tmp_path_factory.mktemp("hot"))


def counted_measurements(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Count those ``made`` of a changed model, of which so many are ``left`` before Ctrl-C; no bound if negative."""
    counts, measured = SimpleNamespace(left=-1, made=0), Bench.measured

    def counted(self: Bench, *given: Any) -> object:
        if counts.left == 0:
            raise KeyboardInterrupt
        counts.left -= 1
        counts.made += 1
        return measured(self, *given)

    monkeypatch.setattr(Bench, "measured", counted)
    return counts
