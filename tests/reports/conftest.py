"""Models that the tests of reports share; nothing trains on them in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import save_bert, save_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of bases is kept for the tests alone."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
