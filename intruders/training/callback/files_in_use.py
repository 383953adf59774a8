"""The files that a callback writes in a training, named by the user or in the Trainer's output folder.

Two callbacks of one Trainer would replace each other's.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import SettingError
from ...system.files import user_path
from .kept_state import KeptState
from .trace import check_trace


@dataclass(frozen=True)
class GivenFiles:
    """What a user says about the files, which may serve several Trainers: None is a name in the output folder."""

    trace: Path | None
    kept: Path | None
    has_trace: bool

    @classmethod
    def of(
        cls, trace: str | os.PathLike[str] | bool | None, kept: str | os.PathLike[str] | None
    ) -> GivenFiles:
        """Return the choice that the callback's arguments state."""
        has_trace = trace is not False and trace is not None
        named = None if trace is None or isinstance(trace, bool) else user_path(trace)
        return cls(named, None if kept is None else user_path(kept), has_trace)

    def in_folder(self, output: Path) -> tuple[Path | None, Path]:
        """Return the trace, None if there is to be none, and the folder of the kept state of one training."""
        trace = (self.trace or output / "intruders.parquet") if self.has_trace else None
        return trace, self.kept or output / "kept"


def check_files(trace: Path | None, kept: KeptState | None, model: nn.Module) -> None:
    """Raise now what writing the files of a training would raise at its first audit."""
    if trace is not None:
        check_trace(trace)
    if kept is not None:
        kept.check(model)


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
