"""A cache of the hub as huggingface_hub lays it out, so that ids are found without the network."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.experiments.healed_models import tuned_in_full
from tests.tiny import save_llama


def offline_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make ``folder`` the cache of a hub that cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def snapshot(hub: Path, repository: str, revision: str, commit: str) -> Path:
    """Return an empty folder for the files of a repository's commit, which ``revision`` names."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    files = folder / "snapshots" / commit
    files.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit, encoding="utf-8")
    return files


def keep(files: Path, hub: Path, repository: str, revision: str, commit: str) -> None:
    """Copy a model's files into the cache as those of a commit."""
    shutil.copytree(files, snapshot(hub, repository, revision, commit), dirs_exist_ok=True)


def hub_with_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub with org/base: its revision v1 is ``folder / "older"``, and main has other weights."""
    older = save_llama(folder / "older")
    hub = offline_hub(folder / "hub", monkeypatch)
    keep(older, hub, "org/base", "v1", "b" * 40)
    keep(Path(tuned_in_full(str(older), folder / "main")), hub, "org/base", "main", "a" * 40)
    return hub
