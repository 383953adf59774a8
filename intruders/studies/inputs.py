"""The local files and folders that runs read: a check that they exist, and digests that tell whether they changed."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from ..checkpoints.stored.json_file import read_json_object
from ..checkpoints.stored.locate import DEMO_MODELS
from ..data.columns import Columns
from ..data.corpora import files_of_copies, files_of_source, local_sources, require_corpus
from ..data.hub_tasks import digest_of_files
from ..data.load_task import files_of_task, require_task
from ..errors import IntrudersError, SettingError
from ..models.base_model import contents_of, is_path, model_folder
from ..system.digests import add_files, digest_of_file
from ..system.files import user_path
from .runs import Run
from .study_folder import MODEL


def require_inputs(runs: Sequence[Run]) -> None:
    """Refuse a local data file or base that does not exist, without reading one."""
    for file in _data_files(runs):
        if not file.is_file():
            raise SettingError(
                f"data file {str(file)!r} does not exist; fix the study, or make the file first"
            )
    for base in _bases(runs):
        if is_path(base):
            model_folder(base)


def require_contents(runs: Sequence[Run]) -> None:
    """Read every task and text of the runs that is here, and what describes a local base, or refuse it: for plans."""
    for base in _bases(runs):
        if is_path(base):
            read_json_object(user_path(base) / "config.json")
    configs = [(task, run.config) for run in runs for task in run.trained_tasks if run.config is not None]
    for source in dict.fromkeys((task, config.part(Columns), config.data_seed) for task, config in configs):
        require_task(*source)
    for text in dict.fromkeys(text for run in runs for text in run.texts):
        require_corpus(text)


def taken_from_the_hub(runs: Sequence[Run]) -> list[str]:
    """Return the bases that are neither a local folder nor OWNER/NAME, as a misspelled folder would be."""
    return [base for base in _bases(runs) if "/" not in base and not is_path(base)]


def digests_of_inputs(runs: Sequence[Run]) -> dict[str, str]:
    """Return a digest of every local data file, text and base by path, and of a copy of a public set by name."""
    digests = {str(file): digest_of_files([file]) for file in _data_files(runs)}
    texts = list(dict.fromkeys(text for run in runs for text in run.texts))
    tasks = dict.fromkeys(task for run in runs for task in run.trained_tasks)
    read = {str(path): files_of_source(path) for name in texts for path in local_sources(name)}
    for name, files in (read | files_of_copies(tasks, texts)).items():
        with suppress(OSError):  # a text that cannot be read is told of where it is loaded
            digests[name] = digest_of_files(files)
    return digests | contents_of({base: base for base in _bases(runs) if is_path(base)})


def inputs_of(run: Run, known: dict[str, str] | None = None) -> dict[str, str]:
    """Hash the base of a run, its local data files, the files and folders of its texts, and copies of public sets.

    What is not on this machine, or has no file, has no entry: a set that comes from the hub is known by its name.
    ``known`` are digests of this call, so that the base of many runs is read once; it gets those that are new.
    """
    # Loads torch, which the plan of a study does without.
    from ..models.base_model import digest_of_model

    known = {} if known is None else known
    inputs = {}
    files = [file for file in _data_files([run]) if file.is_file()]
    texts = [path for name in run.texts for path in local_sources(name)]
    for what, path in [("base", run.base), *(("data", str(source)) for source in [*files, *texts])]:
        name = f"{what} '{path}'"
        if name not in known:
            try:
                if what == "base":
                    known[name] = digest_of_model(path)
                elif Path(path).is_dir():  # all of its texts
                    digest = xxhash.xxh3_128()
                    add_files(digest, files_of_source(Path(path)))
                    known[name] = digest.hexdigest()
                else:  # the content, whatever the name
                    known[name] = digest_of_file(Path(path))
            except (IntrudersError, ImportError, OSError):  # a demo model needs transformers to be unpacked
                continue
        inputs[name] = known[name]
    for copy, of_copy in files_of_copies(run.trained_tasks, run.texts).items():
        name = f"data '{copy}'"
        with suppress(OSError):
            known[name] = known.get(name) or digest_of_files(of_copy)
            inputs[name] = known[name]
    return inputs


def model_of(folder: Path) -> dict[str, str]:
    """Hash the model that a run's measures are of, where it is on this machine."""
    from ..checkpoints.opening.many_sources import digest_of

    # Of a run in a store, only what describes the model is fetched to look whether the run is finished.
    if not any((folder / MODEL).glob("*.safetensors")):
        return {}
    try:
        return {"model": digest_of(str(folder / MODEL))}
    except (IntrudersError, OSError):
        return {}


def _data_files(runs: Sequence[Run]) -> list[Path]:
    configs = [(task, run.config) for run in runs for task in run.trained_tasks if run.config is not None]
    return list(dict.fromkeys(file for task, config in configs for file in files_of_task(task, config)))


def _bases(runs: Sequence[Run]) -> list[str]:
    return [base for base in dict.fromkeys(run.base for run in runs) if base not in DEMO_MODELS]
