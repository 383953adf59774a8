"""A stage is one row of a table of files, by which its work, a store and the tables know it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest

from intruders.studies.tables import rows
from intruders.studies.work import do_stage
from intruders.studies.work.stages import FILES


@pytest.mark.parametrize("stage", FILES)
def test_a_store_brings_something_of_every_result(stage: str) -> None:
    """The tables take a stage for missing whose results are not here, and another machine has only these files."""
    files = FILES[stage]
    for result in files.results:
        assert any(
            file == result or PurePosixPath(result) in PurePosixPath(file).parents
            for file in files.for_tables
        )


def test_every_stage_is_done_and_in_the_tables() -> None:
    """By the code of both: a stage that one of them forgot would be missing in silence."""
    assert names_asked_for(do_stage.do) == FILES.keys()
    assert names_asked_for(rows._add_results) == FILES.keys()


def names_asked_for(function: Callable[..., Any]) -> set[str]:
    """Return the constants that a function compares with, by ``case``, ``in`` or ``==``."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(function))))
    asked = [node.value for node in nodes if isinstance(node, ast.MatchValue)]
    for node in nodes:
        if isinstance(node, ast.Compare):
            asked += [node.left, *node.comparators]
    return {
        constant.value
        for constant in asked
        if isinstance(constant, ast.Constant) and constant.value is not None
    }
