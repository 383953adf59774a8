"""Load any task: a built-in task by name, a local file by path, and the paper's and others by name from the hub."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from ..errors import SettingError
from ..settings.settings_class import told_at
from ..system.files import user_path
from ..system.plugins import TASKS, plugins_of
from .columns import Columns
from .generated_tasks import GROUPS, pydoc_topics, word_problems
from .hub_tasks import HUB_TASKS, folder_of_copy, hub_task
from .local_files import COMPRESSED, SUFFIXES, ending, local_task
from .task import Task, checked
from .values import require_utf8

_SUBTASKS = {f"pydoc-topics-{group}": group for group in range(1, len(GROUPS) + 1)}
_COLUMNS_IN_NAMES = {
    **{name: name for name in ("text", "label", "prompt", "completion", "messages", "score")},
    "validation": "validation_file",
    "test": "test_file",
}
_FLAGS_IN_NAMES = {("header", "no"): "no_header", ("not-text", "drop"): "drop_not_text"}


def load_task(name: str, columns: Columns | None = None, seed: int = 0) -> Task:
    """Load the task ``name`` and check every split.

    ``name`` is word-problems, pydoc-topics, pydoc-topics-1 to -3, a name of the hub table, or a data file. A
    data file can carry its columns, as a list of tasks needs: ``train.tsv?text=sentence&label=label``, for
    a pair ``text=a&text=b``. Raises SettingError for other names, and for data that cannot be used.
    """
    require_utf8(name, "task")
    columns = columns or Columns()
    return replace(_loaded(name, columns, seed), max_new_tokens=columns.max_new_tokens)


def require_task(name: str, columns: Columns, seed: int = 0) -> None:
    """Read what :func:`load_task` reads on this machine alone, so that its errors come before any work."""
    is_of_hub = name in HUB_TASKS and folder_of_copy(name) is None
    if not is_of_hub and name not in plugins_of(TASKS):
        load_task(name, columns, seed)


def _loaded(name: str, columns: Columns, seed: int) -> Task:
    if name == "word-problems":
        return checked(word_problems(seed))
    if name == "pydoc-topics" or name in _SUBTASKS:
        return checked(pydoc_topics(_SUBTASKS.get(name), seed))
    if name in HUB_TASKS:
        return checked(hub_task(name, seed))
    others = plugins_of(TASKS)
    if name in others:
        return checked(others[name](seed))
    if not name.strip():
        raise SettingError(
            f"task {name!r} is an empty name; expected the name of a task or a data file ending in "
            f"{', '.join(SUFFIXES)}; remove it, or write the name"
        )
    path, _, described = name.partition("?")
    if ending(Path(path)) in SUFFIXES:
        return checked(local_task(user_path(path), _described(columns, described, name), seed))
    file, endings = user_path(path), ", ".join(SUFFIXES)
    if file.is_dir():
        raise SettingError(
            f"task {str(file)!r} is a folder; expected a data file ending in {endings}; pass one of its files"
        )
    if file.is_file():
        is_packed = file.suffix.lower() in COMPRESSED
        what, how = (
            ("is compressed", "unpack") if is_packed else ("has an ending that is not known", "convert")
        )
        raise SettingError(f"data file {str(file)!r} {what}; expected one ending in {endings}; {how} it")
    names = ["word-problems", "pydoc-topics", *_SUBTASKS, *HUB_TASKS, *others]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise SettingError(
        f"task {name!r} is not known; {hint}expected one of {', '.join(names)}, or a file ending in {endings}"
    )


def files_of_task(name: str, columns: Columns) -> list[Path]:
    """Return the data files that a task is read from; none for a task of another kind.

    >>> [str(file) for file in files_of_task("rows.csv?test=more.csv", Columns())]
    ['rows.csv', 'more.csv']
    """
    path, _, described = name.partition("?")
    if ending(Path(path)) not in SUFFIXES:
        return []
    whole = _described(columns, described, name)
    return [user_path(file) for file in (path, whole.validation_file, whole.test_file) if file is not None]


def described_task(name: str, columns: Columns) -> str:
    """Return the name of a data file followed by its columns, as ``load_task`` reads it; another name unchanged.

    >>> described_task("rows.csv", Columns(text=("a", "b"), label="c")), described_task("sst2", Columns())
    ('rows.csv?text=a%2Cb&label=c', 'sst2')
    """
    path, _, described = name.partition("?")
    if ending(Path(path)) not in SUFFIXES:
        return name
    whole = _described(columns, described, name)
    pairs = {key: getattr(whole, field) for key, field in _COLUMNS_IN_NAMES.items()}
    pairs["text"] = ",".join(whole.text)
    pairs |= {key: value for (key, value), field in _FLAGS_IN_NAMES.items() if getattr(whole, field)}
    query = {key: value for key, value in pairs.items() if value}
    return f"{path}?{urlencode(query)}" if query else path


def _described(columns: Columns, described: str, name: str) -> Columns:
    # The columns, replaced by those that follow the file's name.
    try:
        pairs = parse_qsl(described, strict_parsing=True) if described else []
    except ValueError as error:
        raise SettingError(f"task {name!r}: expected NAME=VALUE with & between behind the ?") from error
    changed: dict[str, Any] = {}
    for key, value in pairs:
        if key == "text":
            changed["text"] = (*changed.get("text", ()), *value.split(","))
        elif key in _COLUMNS_IN_NAMES:
            changed[_COLUMNS_IN_NAMES[key]] = value
        elif (key, value) in _FLAGS_IN_NAMES:
            changed[_FLAGS_IN_NAMES[key, value]] = True
        else:
            raise SettingError(
                f"task {name!r}: {key}={value} is not understood; "
                f"expected {', '.join(_COLUMNS_IN_NAMES)}, header=no or not-text=drop"
            )
    with told_at(f"task {name!r}"):
        return replace(columns, **changed)
