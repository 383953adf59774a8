"""What is quiet while a model is loaded is afterwards as the caller had set it; a transformers too old is refused."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from huggingface_hub import utils as hub
from transformers.utils import logging as theirs

from intruders.errors import MissingDependencyError
from intruders.models.quiet import quiet_transformers

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def bars_restored() -> Iterator[None]:
    before = bars()
    yield
    set_bars(*before)


def bars() -> tuple[bool, bool]:
    """Whether transformers shows bars, and whether huggingface_hub does."""
    return theirs.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()


def set_bars(of_transformers: bool, of_hub: bool) -> None:
    """transformers first: it sets those of huggingface_hub too."""
    (theirs.enable_progress_bar if of_transformers else theirs.disable_progress_bar)()
    (hub.enable_progress_bars if of_hub else hub.disable_progress_bars)()


@pytest.mark.parametrize("of_transformers", [True, False])
@pytest.mark.parametrize("of_hub", [True, False])
def test_the_bars_of_both_libraries_are_as_before(of_transformers: bool, of_hub: bool) -> None:
    set_bars(of_transformers, of_hub)
    with quiet_transformers():
        assert bars() == (False, False)
    assert bars() == (of_transformers, of_hub)
    with pytest.raises(KeyboardInterrupt), quiet_transformers():
        raise KeyboardInterrupt
    assert bars() == (of_transformers, of_hub)


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
