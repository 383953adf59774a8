"""A finished study of two runs, published, and two others that took runs of it over."""

import shutil
from pathlib import Path

import pytest

from intruders.studies.run_study import StudyOutcome
from intruders.studies.study import Study
from intruders_research.published.publish import publish_study
from tests.research.parsed import parsed, run_study
from tests.studies.tiny_study import tiny_study


@pytest.fixture(scope="module")
def published(done: tuple[Path, StudyOutcome], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished study of two runs, and what was published of it."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(done[0], folder / "runs")
    publish_study(folder / "runs", folder / "data" / "tiny")
    return folder / "runs", folder / "data" / "tiny"


@pytest.fixture(scope="module")
def few(published: tuple[Path, Path], llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study without its last run, taken over."""
    document = tiny_study(llama)
    del document["experiments"]["matched"]["methods"][1]
    return run_study(parsed(document), tmp_path_factory.mktemp("few") / "out", published=published[1]).folder


@pytest.fixture(scope="module")
def another(published: tuple[Path, Path], llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs under another name, taken over."""
    study = parsed(tiny_study(llama) | {"name": "another"})
    return run_study(study, tmp_path_factory.mktemp("another") / "out", published=published[1]).folder


@pytest.fixture
def data(published: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the published tables."""
    return shutil.copytree(published[1], tmp_path / "data")


@pytest.fixture
def own(llama: Path) -> Study:
    """The study whose two runs were published."""
    return parsed(tiny_study(llama))
