"""Inputs of a stage, as hashes of files: a result is valid for the base, data and model of this call alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl

import xxhash

from ..data.corpora import files_of_copies, files_of_source, local_sources
from ..data.local_copies import digest_of_files
from ..errors import IntrudersError
from ..system.digests import add_files, digest_of_file
from ..system.files import user_path
from .runs import Run
from .study_folder import MODEL

Inputs = dict[str, str]  # what it is, with its path, to its digest


def inputs_of(run: Run, known: dict[str, str] | None = None) -> Inputs:
    """Hash the base of a run, its local data files, the files and folders of its texts, and copies of public sets.

    What is not on this machine, or has no file, has no entry: a set that comes from the hub is known by its name.

    Args:
      run: whose inputs.
      known: digests of this call by input, so that the base of many runs is read once; gets those that are new.
    """
    # Loads torch, which the plan of a study does without.
    from ..models.base_model import digest_of_model

    known = {} if known is None else known
    inputs = {}
    for what, path in [("base", run.base), *(("data", source) for source in _data_of(run))]:
        name = f"{what} '{path}'"
        if name not in known:
            try:
                known[name] = digest_of_model(path) if what == "base" else _digest_of_data(Path(path))
            except (IntrudersError, ImportError, OSError):  # a demo model needs transformers to be unpacked
                continue
        inputs[name] = known[name]
    for copy, files in files_of_copies(run.trained_tasks, run.texts).items():
        name = f"data '{copy}'"
        with suppress(OSError):
            known[name] = known.get(name) or digest_of_files(files)
            inputs[name] = known[name]
    return inputs


def model_of(folder: Path) -> Inputs:
    """Hash the model that a run's measures are of, where it is on this machine."""
    from ..checkpoints.opening.many_sources import digest_of

    # Of a run in a store, only what describes the model is fetched to look whether the run is finished.
    if not any((folder / MODEL).glob("*.safetensors")):
        return {}
    try:
        return {"model": digest_of(str(folder / MODEL))}
    except (IntrudersError, OSError):
        return {}


def _data_of(run: Run) -> Iterator[str]:
    """Yield the paths of the tasks that are files, and of the files and folders that the texts are read from."""
    named = [*run.tasks, *run.measure.loss_on]
    if run.config is not None:
        named += [run.config.task, run.config.validation_file or "", run.config.test_file or ""]
    for name in list(named):  # a task may name further files behind its own, as in rows.tsv?test=others.tsv
        named += [value for key, value in parse_qsl(name.partition("?")[2]) if key in ("validation", "test")]
    paths = [user_path(name.partition("?")[0]) for name in named if name]
    files = [path for path in paths if path.is_file()]
    texts = [path for name in run.texts for path in local_sources(name)]
    yield from dict.fromkeys(str(path) for path in [*files, *texts])


def _digest_of_data(path: Path) -> str:
    """Hash a file's content whatever its name, as records of earlier versions have it, and all texts of a folder."""
    if not path.is_dir():
        return digest_of_file(path)
    digest = xxhash.xxh3_128()
    add_files(digest, files_of_source(path))
    return digest.hexdigest()
