"""The examples in docstrings print what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from tests.house.test_layers import FILES, module_of

WITH_EXAMPLES = [module_of(file) for file in FILES if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0
    assert failed == 0


def test_the_main_verb_has_an_example() -> None:
    assert "intruders.audits.audit" in WITH_EXAMPLES
