"""A transformers that is too old is refused in one line, and the line says what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import transformers

from intruders.errors import MissingDependencyError
from intruders.models.quiet import quiet_transformers

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest_of_pyproject() -> str:
    wanted = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["train"]
    [bound] = [line.removeprefix("transformers>=") for line in wanted if line.startswith("transformers>=")]
    return str(bound)


@pytest.mark.parametrize("version", ["3.5.1", "4.50.3", "4.55.0.dev0"])
def test_older_than_the_lowest_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", version)
    said = f"transformers {version} is too old for this; expected {lowest_of_pyproject()} or later; run pip"
    with pytest.raises(MissingDependencyError, match=re.escape(said)), quiet_transformers():
        pass


def test_the_lowest_and_those_after_it_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (lowest_of_pyproject(), f"{lowest_of_pyproject()}.2", "5.0.0rc1", "10.0"):
        monkeypatch.setattr(transformers, "__version__", version)
        with quiet_transformers():
            pass
