"""A finished study that the tests of studies share, and a cache of their own."""

from pathlib import Path

import pytest

from intruders.studies.run_study import StudyOutcome, run_study
from tests.studies.tiny_study import parsed, tiny_study


@pytest.fixture(scope="session")
def done(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyOutcome]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(parsed(tiny_study(llama)), out)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of bases is kept for the tests alone."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
