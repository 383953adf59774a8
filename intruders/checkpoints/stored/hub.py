"""Models of the Hugging Face Hub: an id with its revision, and which commit the files of a path are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_HUB_ID = re.compile(r"(?P<repository>[\w.-]{1,96}(?:/[\w.-]{1,96})?)(?:@(?P<revision>[\w./-]{1,200}))?")
_SNAPSHOT = re.compile(r"models--(?P<repository>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True)
class HubOrigin:
    """The commit of a repository that a model was read from, and the revision by which it was asked for."""

    repository: str
    revision: str | None
    commit: str

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


def origins_in(side: Mapping[str, Any]) -> tuple[HubOrigin, ...]:
    """The commits that a saved result names under ``hub``; results of earlier versions name none.

    Raises:
      ValueError: an entry is not what :meth:`HubOrigin.as_dict` gives.
    """
    origins = []
    for record in side.get("hub", []):
        repository, revision, commit = (record.get(key) for key in ("repository", "revision", "commit"))
        if not (isinstance(repository, str) and isinstance(commit, str)):
            raise ValueError("an entry of 'hub' lacks its repository or its commit")
        origins.append(HubOrigin(repository, revision if isinstance(revision, str) else None, commit))
    return tuple(origins)


def split_revision(source: str) -> tuple[str, str | None] | None:
    """``"org/name@v1"`` -> ``("org/name", "v1")``; without a revision None in its place; None for no hub id."""
    match = _HUB_ID.fullmatch(source)
    return (match["repository"], match["revision"]) if match else None


def origin_of(path: Path, source: str) -> HubOrigin | None:
    """Read the commit off a path in the hub's cache, whether it was given as an id or as that path.

    Args:
      path: where the model lies.
      source: what the user gave, which may name a revision.
    """
    snapshot = _SNAPSHOT.search(path.absolute().as_posix())
    if snapshot is None:
        return None
    repository = snapshot["repository"].replace("--", "/")
    asked = split_revision(source)
    revision = asked[1] if asked is not None and asked[0] == repository else None
    return HubOrigin(repository, revision, snapshot["commit"])
