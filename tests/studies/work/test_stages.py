"""A stage is one row of a table of files, by which its work, a store and the tables know it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from intruders.studies.describe.runs import expand
from intruders.studies.tables import rows
from intruders.studies.work import do_stage
from intruders.studies.work.stages import FILES, stages_of
from tests.studies.tiny_study import parsed, tiny_study


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


def test_the_energy_of_outputs_is_measured_again_for_other_matrices(tmp_path: Path) -> None:
    """It is a mean over the matrices that the audit selects; records of runs without a selection stay as they were."""

    def settings(**audit: object) -> dict[str, Any]:
        measure = {"loss_on": ["pydoc"], "output_energy": True, "audit": audit}
        methods = [{"method": "full", "lr": 1e-3}]
        [run] = expand(
            parsed(tiny_study(tmp_path / "llama", task="word-problems", measure=measure, methods=methods))
        )
        return {stage.name: stage.settings for stage in stages_of(run)}

    assert settings(k=4)["outputs"] == settings(k=5)["outputs"] == settings()["evaluate"]
    assert settings(include=["*.q_proj.*"])["outputs"] == settings()["evaluate"] | {"include": ["*.q_proj.*"]}
