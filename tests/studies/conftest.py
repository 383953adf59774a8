"""Models and a finished study that the tests of studies share; nothing trains on them in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.studies.run_study import StudyOutcome, run_study
from tests.studies.tiny_study import parsed, tiny_study
from tests.tiny import save_bert, save_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def done(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyOutcome]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(parsed(tiny_study(llama)), out)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of bases is kept for the tests alone."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
