"""The examples in docstrings print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.experiments.healed_models import llama_and_adapter
from tests.house.test_layers import FILES, module_of

ROOT = Path(__file__).parents[2]

WITH_EXAMPLES = [module_of(file) for file in FILES if ">>> " in file.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``base`` and ``tuned`` that examples of measurements speak of; the adapter has intruders."""
    folder = tmp_path_factory.mktemp("models")
    _, tuned = llama_and_adapter(folder, size=3.0)
    Path(tuned).rename(folder / "tuned")
    return folder


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("base", "tuned"):
        (tmp_path / folder).symlink_to(models / folder)
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # published tables
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0
    assert failed == 0
