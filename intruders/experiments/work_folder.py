"""The folder in which a healing keeps finished steps, next to its output folder, so that it resumes after a kill."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save

from ..errors import SettingError
from ..system.documents import read_document
from ..system.files import write_atomically
from ..system.folders import LOCK, working_folder
from .healing import RECORD, Healing
from .learning import State

_KEY = "key.json"
_ENDING = ".unfinished"


@dataclass(frozen=True)
class WorkFolder:
    """The progress of a healing into ``out``, on disk; kept nowhere without a folder."""

    folder: Path | None

    @classmethod
    def beside(cls, out: Path | None) -> "WorkFolder":
        if out is None:
            return cls(None)
        out = Path(os.path.abspath(out))  # "." and ".." have no name to add to
        return cls(out.with_name(out.name + _ENDING))

    @contextmanager
    def held(self, key: Mapping[str, Any], out: Path | None) -> Iterator[None]:
        """Lock the folder for this process; remove it when the block ends without an error.

        SettingError if another process has locked it, or if it belongs to another healing.
        """
        with working_folder(self.folder) as folder:
            if folder is None or out is None:
                yield
                return
            begun = read_document(folder / _KEY, "what a healing keeps", Healing.schema)
            require_same(begun, key, f"'{folder}'", out)
            document = json.dumps({"schema": Healing.schema, **key}, allow_nan=False)
            write_atomically(folder / _KEY, document.encode())
            try:
                yield
            except BaseException:
                # What was refused before anything was kept must not stand in the way of other settings.
                # A new folder is then removed too, since only its lock is left.
                if {file.name for file in folder.iterdir()} <= {_KEY, LOCK}:
                    (folder / _KEY).unlink()
                raise
            # While it is locked: the next process may begin another healing there as soon as it is not.
            shutil.rmtree(folder, ignore_errors=True)

    def learning(self, name: str) -> State | None:
        """Return the state of a learning that was kept last."""
        if self.folder is None or not (file := self.folder / f"{name}.safetensors").is_file():
            return None
        with safe_open(file, "pt") as kept:
            return {key: kept.get_tensor(key) for key in kept.keys()}, kept.metadata()  # noqa: SIM118

    def keep_learning(self, name: str, state: State) -> None:
        if self.folder is not None:
            tensors, texts = state
            content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, dict(texts))
            write_atomically(self.folder / f"{name}.safetensors", content)


def finished_healing(folder: Path, key: Mapping[str, Any]) -> Healing | None:
    """Return the finished healing in the folder; None if it has none, SettingError if it has another one."""
    if not (folder / RECORD).is_file():
        return None
    healing = Healing.load(folder)
    # The names alone: a path may have been given from another working folder.
    if healing.out is not None and folder.resolve().name != Path(healing.out).resolve().name:
        raise SettingError(
            f"'{folder}' has the record of a healing that was written to '{healing.out}'; expected its own; "
            "choose another folder, or pass --force to write it again"
        )
    require_same(healing.of, key, f"'{folder}'", folder)
    return healing


def require_same(before: Mapping[str, Any] | None, now: Mapping[str, Any], where: str, out: Path) -> None:
    """Raise SettingError if the folder was begun by another healing than the requested one."""
    if before is None:
        return
    own = json.loads(json.dumps(dict(now)))
    for name in {**own, **before}:
        value, earlier = own.get(name), before.get(name)
        if name != "schema" and earlier != value:
            parts = f"{name} was {_shown(earlier)} and is {_shown(value)}"
            if isinstance(value, dict) and isinstance(earlier, dict):
                other = next(key for key in {**value, **earlier} if value.get(key) != earlier.get(key))
                parts = f"{name}: {other} was {_shown(earlier.get(other))} and is {_shown(value.get(other))}"
            raise SettingError(
                f"{where} is of another healing ({parts}); expected the same models, data and settings; pass the same, "
                f"or choose another folder than '{out}'"
            )


def _shown(value: Any) -> str:
    """A value of a record in a few words; one that stands alone in a list is shown without it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return "not given" if value is None else json.dumps(value)[:40]
