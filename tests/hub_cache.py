"""A cache of the hub as huggingface_hub lays it out, so that ids are found without the network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest


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
