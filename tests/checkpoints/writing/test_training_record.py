"""What a model that is made from a run of finetune keeps of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.checkpoints.writing.training_record import FinetunedFolder, data_seed_of, training_record
from intruders.errors import ResultFileError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama

RUN: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "seconds": 9.0,
    "config": {"base": "base", "data_seed": 5, "rank": 2},
    "task": {"labels": ["bad", "good"], "digest": "1"},
}


def trained(folder: Path, form: str) -> Path:
    saved(tiny_llama(), folder / "base")
    model = hot_llama() if form == "adapter" else hot_llama().merge_and_unload()
    saved(model, folder / "tuned")
    (folder / "tuned" / "run.json").write_text(json.dumps(RUN))
    return folder / "tuned"


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
@pytest.mark.parametrize("written_as", ["auto", "checkpoint"])
def test_a_scaled_model_keeps_labels_and_data_seed_and_is_no_run(
    form: str, written_as: str, tmp_path: Path
) -> None:
    """Twice in a row: the second model is made from one that has a copy."""
    tuned, base = trained(tmp_path, form), tmp_path / "base"
    write_at_scale(base, tuned, 0.5, tmp_path / "half", form=written_as)
    mitigate(base, tmp_path / "half", remedy=Interpolate(alpha=0.5), out=tmp_path / "quarter", check=False)
    for name in ("half", "quarter"):
        assert FinetunedFolder.of(tmp_path / name) == FinetunedFolder("base", ["bad", "good"], 5)
        assert data_seed_of(str(tmp_path / name)) == 5
        assert not (tmp_path / name / "run.json").exists()
    assert not (tmp_path / "quarter" / "written.json").exists()


def test_a_record_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tuned = trained(tmp_path, "adapter")
    (tuned / "run.json").write_text("nonsense")
    with pytest.raises(ResultFileError, match="restore it, or remove it"):
        write_at_scale(tmp_path / "base", tuned, 0.5, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_a_folder_without_a_run_has_no_record(tmp_path: Path) -> None:
    assert training_record(tmp_path) is None
    assert data_seed_of(str(tmp_path)) == 0
