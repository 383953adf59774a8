"""Tiny models that no experiment changes, and a text that they are healed on."""

from __future__ import annotations

import pytest

from tests.tiny import short_texts

from .healed_models import Models, llama_and_adapter


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A base and an adapter of it."""
    return llama_and_adapter(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(short_texts(tmp_path_factory.mktemp("text") / "text.jsonl", 8))
