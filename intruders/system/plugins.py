"""What other packages add through entry points: the groups, and how their objects are loaded."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import SettingError, in_one_line

FORMATS, REMEDIES, TASKS, CORPORA, CLAIMS = "formats", "remedies", "tasks", "corpora", "claims"
COMMANDS, METHODS, KINDS = "commands", "methods", "kinds"
# "0" loads no plugin, as in the tests.
VARIABLE = "INTRUDERS_PLUGINS"
# What the object of an entry point must have, so that a wrong one is named when it is loaded and not when it is used;
# docs/reference/environment.md says what it is in each group.
_NEEDED: dict[str, tuple[str, ...]] = {
    FORMATS: ("suffixes", "read"),
    REMEDIES: ("name", "strength", "change"),
    TASKS: ("__call__",),
    CORPORA: ("__call__",),
    CLAIMS: ("CLAIM", "analyse", "charts"),
    COMMANDS: ("__call__",),
    METHODS: ("start", "callbacks"),
    KINDS: ("__call__",),
}


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it gives, or why it could not be loaded.

    Attributes:
      group: the group of the entry point, which says what it adds.
      name: its name.
      value: where it is: "package.module:object".
      package: the distribution and its version.
      loaded: the object; None if it could not be loaded.
      error: why it could not, in one line.
    """

    group: str
    name: str
    value: str
    package: str
    loaded: Any = None
    error: str | None = None


def load_plugins() -> tuple[Plugin, ...]:
    """Load the plugins of all groups, once per process.

    The environment variable INTRUDERS_PLUGINS=0 loads none.

    Returns:
      The plugins, each with the loaded object, or with the reason why it could not be loaded, whatever it raised.

    Examples:
      >>> all(plugin.loaded is not None or plugin.error for plugin in load_plugins())
      True
    """
    return tuple(plugin for group in _NEEDED for plugin in _of_group(group))


@cache
def _of_group(group: str) -> tuple[Plugin, ...]:
    """Load the plugins of one group: an audit that asks for formats must not wait for methods of training."""
    entries = _entries(f"intruders.{group}")
    return tuple(_loaded(group, entry) for entry in sorted(entries, key=lambda entry: entry.name))


# Every package's metadata is read: once, and not for each group. importlib names its type in two ways.
_installed: Callable[[], Any] = cache(entry_points)


def _entries(group: str, **name: str) -> Any:
    return () if os.environ.get(VARIABLE) == "0" else _installed().select(group=group, **name)


def plugin_command(name: str) -> Any:
    """Return the function of a plugin's command, loading no other plugin; None if there is none that loads."""
    for entry in _entries(f"intruders.{COMMANDS}", name=name):
        return _loaded(COMMANDS, entry).loaded
    return None


def plugins_of(group: str) -> dict[str, Any]:
    return {plugin.name: plugin.loaded for plugin in _of_group(group) if not plugin.error}


def needed_plugin(group: str, name: str, asked: str) -> Any:
    """Return a plugin of the research programme; SettingError, with what ``asked`` for it, if it is not installed."""
    known = plugins_of(group)
    if name not in known:
        raise SettingError(
            f"{asked}, which is a plugin that is not installed; expected the package intruders-research; install it: "
            "pip install ./research"
        )
    return known[name]


def _loaded(group: str, entry: EntryPoint) -> Plugin:
    package = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    plugin = Plugin(group, entry.name, entry.value, package)
    try:
        loaded = entry.load()
    except Exception as error:  # whatever another package's import raises: it must not end our command
        return replace(plugin, error=in_one_line(error))
    missing = [name for name in _NEEDED[group] if not hasattr(loaded, name)]
    if missing:
        return replace(plugin, error=f"it has no {', '.join(missing)}; see docs/reference/environment.md")
    return replace(plugin, loaded=loaded)
