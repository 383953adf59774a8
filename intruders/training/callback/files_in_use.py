"""The files that a callback writes in a training: two callbacks of one Trainer would replace each other's."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from ...errors import SettingError


class FilesInUse:
    """The claim of a callback on its files, which ends when the callback lets go of it."""

    def __init__(self, state: Any, paths: dict[str, Path]) -> None:
        self._state = state  # the Trainer passes one and the same to all callbacks of a training
        self._paths = paths

    @classmethod
    def claimed(cls, state: Any, *, trace: Path | None, kept: Path | None) -> FilesInUse:
        """Claim the files of a training whose state is ``state``.

        Raises:
          SettingError: another callback of the same training has claimed one of them.
        """
        given = {"trace": trace, "kept": kept}
        paths = {name: path.resolve() for name, path in given.items() if path is not None}
        for other in _claims:
            for name, path in paths.items():
                if other._state is state and other._paths.get(name) == path:
                    raise SettingError(
                        f"two callbacks of one Trainer write '{given[name]}'; expected one for each; pass {name}= with "
                        "another path to one of them"
                    )
        claim = cls(state, paths)
        _claims.add(claim)
        return claim


_claims: weakref.WeakSet[FilesInUse] = weakref.WeakSet()
