"""The files of local copies of public sets that tasks and texts are read from: an edited copy keeps the set's name."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import SettingError
from .corpora import files_of_copied_corpora
from .hub_tasks import HUB_TASKS, files_of_copied_task
from .local_copies import VARIABLE


def files_of_copies(tasks: Iterable[str], texts: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files of every copy that these tasks and texts are read from, by ``NAME in INTRUDERS_DATA``.

    A set that comes from the hub has none. Neither has a copy that cannot be used: the error comes where it is loaded.
    """
    files: dict[str, list[Path]] = {}
    for name in tasks:
        if name in HUB_TASKS:
            with suppress(SettingError):
                files[name] = files_of_copied_task(name)
    for name in texts:
        with suppress(SettingError):
            files |= files_of_copied_corpora(name)
    return {f"{name} in {VARIABLE}": of_copy for name, of_copy in files.items() if of_copy}
