"""A full fine-tuning as an adapter: what the adapter cannot hold is told."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from intruders.mitigation.mitigate import mitigate
from tests.checkpoints.models import moved, saved, tiny_llama

NO_LINEAR_LAYERS = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}


def sides(folder: Path, also: set[str]) -> tuple[Path, Path]:
    """A base, and a fine-tuning of its projections and of the tensors in ``also``."""
    base = tiny_llama()
    tuned = moved(copy.deepcopy(base), 0.1, 1, only=lambda name, parameter: "proj" in name or name in also)
    return saved(base, folder / "base"), saved(tuned, folder / "tuned")


def test_tensors_that_are_no_linear_layers_are_told(tmp_path: Path) -> None:
    base, tuned = sides(tmp_path, NO_LINEAR_LAYERS)
    with pytest.warns(UserWarning, match="leaves out 3 tensors") as told:
        mitigate(base, tuned, scale=0.5, form="adapter", rank=4, out=tmp_path / "out", check=False)
    (text,) = (str(warning.message) for warning in told if "leaves out" in str(warning.message))
    assert all(name in text for name in NO_LINEAR_LAYERS)
    assert "--as checkpoint" in text


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_nothing_is_told_where_nothing_is_left_out(
    tmp_path: Path, form: str, recwarn: pytest.WarningsRecorder
) -> None:
    base, tuned = sides(tmp_path, set() if form == "adapter" else NO_LINEAR_LAYERS)
    rank = 4 if form == "adapter" else None
    mitigate(base, tuned, scale=0.5, form=form, rank=rank, out=tmp_path / "out", check=False)
    assert not [warning for warning in recwarn if "leaves out" in str(warning.message)]
