"""Inputs of a stage, as hashes of files: a result is valid for the base, data and model of this call alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

from ...errors import IntrudersError
from ...system.file_digests import digest_of_file
from ..describe.runs import Run
from .study_folder import MODEL

Inputs = dict[str, str]  # what it is, with its path, to its digest


def inputs_of(run: Run, known: dict[str, str] | None = None) -> Inputs:
    """Hash the base of a run and its local data files.

    What is not on this machine, or has no file, has no entry: a public data set is known by its name.

    Args:
      run: whose inputs.
      known: digests of this call by path, so that the base of many runs is read once; gets those that are new.
    """
    # Loads torch, which the plan of a study does without.
    from ...models.model_digest import digest_of_model

    known = {} if known is None else known
    inputs = {}
    for what, path in [("base", run.base), *(("data", file) for file in _data_files(run))]:
        if path not in known:
            try:
                known[path] = digest_of_model(path) if what == "base" else digest_of_file(Path(path))
            except (IntrudersError, ImportError, OSError):  # a demo model needs transformers to be unpacked
                continue
        inputs[f"{what} '{path}'"] = known[path]
    return inputs


def model_of(folder: Path) -> Inputs:
    """Hash the model that a run's measures are of, where it is on this machine."""
    from ...checkpoints.opening.many_sources import digest_of

    # Of a run in a store, only what describes the model is fetched to look whether the run is finished.
    if not any((folder / MODEL).glob("*.safetensors")):
        return {}
    try:
        return {"model": digest_of(str(folder / MODEL))}
    except (IntrudersError, OSError):
        return {}


def _data_files(run: Run) -> Iterator[str]:
    """Yield the paths of the tasks and corpora that are files."""
    named = [*run.tasks, *run.measure.loss_on]
    if run.config is not None:
        named += [run.config.task, run.config.validation_file or "", run.config.test_file or ""]
    for name in list(named):  # a task may name further files behind its own, as in rows.tsv?test=others.tsv
        named += [value for key, value in parse_qsl(name.partition("?")[2]) if key in ("validation", "test")]
    paths = [Path(name.partition("?")[0]).expanduser() for name in named if name]
    yield from dict.fromkeys(str(path) for path in paths if path.is_file())
