"""The folder of a training that goes on or was stopped, which has states of the model and not yet the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import some_of
from .names import natural_order


def without_kept_state(folder: Path, names: Iterable[str]) -> list[str]:
    """Return names of folders in the folder of a training, sorted, without the state that it keeps while it goes on."""
    is_run = (folder / "run.json").is_file()
    return sorted((name for name in names if not (is_run and name == "kept")), key=natural_order)


def where_training_stopped(folder: Path) -> str:
    """Return what to do with the folder of a training that has not ended; empty for another folder."""
    if (folder / "run.json").is_file():
        return "; its training has not ended; repeat its command to resume it"
    states = sorted(
        (state.name for state in folder.glob("checkpoint-*") if state.is_dir()), key=natural_order
    )
    return (
        f"; its training has not ended; finish it, or pass one of its states: {some_of(states)}"
        if states
        else ""
    )
