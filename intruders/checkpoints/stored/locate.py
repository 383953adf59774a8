"""From what a user typed to a path on this machine: a path, an alias of a demo model, or a hub id."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ...errors import CheckpointError, some_of
from ...system.files import as_utf8, is_utf8, user_path
from .demo_models import DEMO_ADAPTERS, DEMO_MODELS, demo_model_path
from .hub import split_revision
from .split_names import one_file_each

_CONFIGS = (".json", ".txt", ".model", ".jinja")  # with the tokenizer, for what is run and not only audited
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_FILE_ENDING = re.compile(r"\.(?:safetensors|bin|pt|pth|ckpt|gguf|json)$")


def locate(source: str) -> Path:
    """The file or folder that ``source`` stands for; a hub id is downloaded into the hub's own cache.

    A hub id means one commit for as long as the process runs.

    Raises:
      CheckpointError: nothing is there, or the hub has no such model or cannot be reached.
      MissingDependencyError: the alias of a demo model whose package is not installed.
    """
    if not source.strip():  # Python takes it for the folder that it works in
        raise CheckpointError(
            f"'{source}' is not a path; expected a path, a hub id or an alias of a model; check that the shell "
            "variable in the command is set"
        )
    if source in DEMO_MODELS:
        return demo_model_path(source)
    if source in DEMO_ADAPTERS:
        return DEMO_ADAPTERS[source].folder
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
    asked = split_revision(source)
    if asked is None or _FILE_ENDING.search(source) or source.startswith("."):
        raise CheckpointError(
            f"'{source}' does not exist; expected a path, a hub id such as 'org/model' or "
            f"'org/model@revision', or one of {some_of(sorted([*DEMO_MODELS, *DEMO_ADAPTERS]))}"
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
    configs = [file for file in top if file.endswith(_CONFIGS)]
    for ending in _WEIGHTS:
        weights = [file for file in top if file.endswith(ending) and not file.startswith("consolidated")]
        models = one_file_each(weights)
        if ending == ".gguf" and len(models) > 1:
            raise CheckpointError(
                f"'{hub_id}' contains {len(models)} GGUF models, one a quantization: {some_of(models)}; "
                "download one, and pass its path"
            )
        if weights:
            return configs + weights
    inside = sorted({file.partition("/")[0] for file in files if "/" in file and file.endswith(_WEIGHTS)})
    raise CheckpointError(
        f"'{hub_id}' has no weights at the top of its repository; expected one of {', '.join(_WEIGHTS)}; "
        + (f"download one of its folders {some_of(inside)}, and pass it" if inside else "pass another model")
    )
