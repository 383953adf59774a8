"""The notebook examples/tour.ipynb runs offline, from top to bottom."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "examples" / "tour.ipynb"


def test_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(notebook, "code"))


@pytest.mark.models
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in cells(notebook, "code") for output in cell.outputs)
    assert "31 intruders in 360 vectors of 36 matrices" in printed
    assert "the decisions agree: True" in printed
    assert "intruders scaled: 1\n" in printed
    assert "compare.html written" in printed


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]
