"""What other packages add through entry points: one protocol per group, and how their objects are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import in_one_line

if TYPE_CHECKING:
    from torch import Tensor

FORMATS, REMEDIES, TASKS, CORPORA, CLAIMS = "formats", "remedies", "tasks", "corpora", "claims"
COMMANDS, METHODS = "commands", "methods"
GROUPS = (FORMATS, REMEDIES, TASKS, CORPORA, CLAIMS, COMMANDS, METHODS)
# "0" loads no plugin, as in the tests.
VARIABLE = "INTRUDERS_PLUGINS"


class FormatPlugin(Protocol):
    """A file format of checkpoints or adapters: the entry point is such an object or module."""

    suffixes: Sequence[str]  # ".npz": files that end so are read by it

    def read(self, file: Path) -> Mapping[str, Tensor]:
        """Return the tensors by name; names of LoRA factors make it an adapter."""
        ...


class RemedyPlugin(Protocol):
    """A remedy: the entry point is a subclass of ``mitigation.remedies.remedy.PublishedRemedy``."""

    name: str  # as ``--remedy`` takes it
    strength: str  # the setting that ``--strength`` stands for


class TaskPlugin(Protocol):
    """A task: the entry point is a function, and its name what ``--task`` takes."""

    def __call__(self, seed: int) -> Any:
        """Return a ``data.task.Task`` with train, validation and test examples."""
        ...


class CorpusPlugin(Protocol):
    """A corpus: the entry point is a function, and its name what ``--loss-on`` takes."""

    def __call__(self) -> list[str]:
        """Return the documents."""
        ...


class ClaimPlugin(Protocol):
    """A claim: the entry point is a module as those of ``intruders_research.claims``, and its name an analysis.

    The package ``intruders-research`` asks it; nothing here does.
    """

    CLAIM: Any  # an ``intruders_research.claims.shared.claim.Claim``

    def analyse(self, results: Any) -> Any:
        """Return an ``intruders_research.claims.shared.claim.Finding`` from ``intruders.load_results(folder)``."""
        ...

    def charts(self, finding: Any, palette: Any) -> Sequence[Any]:
        """Return what the finding's tables show, as charts."""
        ...


class CommandPlugin(Protocol):
    """A command: the entry point is a function as those of ``cli``, and its name the command's."""

    def __call__(self, **options: Any) -> None:
        """Do it and print; typer makes the options from the signature, and the help from the docstring."""
        ...


class MethodPlugin(Protocol):
    """What a method of fine-tuning does beside PEFT: the entry point is such an object or module.

    Its name is the method that ``--method`` takes, or ``budget`` for what ``--budget`` asks.
    """

    def start(self, model: Any, config: Any) -> None:
        """Change the adapter that PEFT has just made for a ``training.finetune_config.FinetuneConfig``."""
        ...

    def callbacks(self, model: Any, config: Any) -> Sequence[Any]:
        """Return transformers' callbacks; the adapter now has the weights that the training begins with."""
        ...


# What an object of each group must have, so that a wrong one is named when it is loaded and not when it is used.
_NEEDED: dict[str, tuple[str, ...]] = {
    FORMATS: ("suffixes", "read"),
    REMEDIES: ("name", "strength", "change"),
    TASKS: ("__call__",),
    CORPORA: ("__call__",),
    CLAIMS: ("CLAIM", "analyse", "charts"),
    COMMANDS: ("__call__",),
    METHODS: ("start", "callbacks"),
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


@cache
def load_plugins() -> tuple[Plugin, ...]:
    """Load the plugins of all groups, once per process.

    The environment variable INTRUDERS_PLUGINS=0 loads none.

    Returns:
      The plugins, each with the loaded object, or with the reason why it could not be loaded.

    Raises:
      Nothing: whatever a plugin's import raises becomes its reason.

    Examples:
      >>> all(plugin.loaded is not None or plugin.error for plugin in load_plugins())
      True
    """
    if os.environ.get(VARIABLE) == "0":
        return ()
    installed = entry_points()  # every package's metadata is read: once, and not for each group
    return tuple(
        _loaded(group, entry)
        for group in GROUPS
        for entry in sorted(installed.select(group=f"intruders.{group}"), key=lambda entry: entry.name)
    )


def plugin_command(name: str) -> Any:
    """Return the function of a plugin's command, loading no other plugin; None if there is none that loads."""
    if os.environ.get(VARIABLE) == "0":
        return None
    for entry in entry_points(group=f"intruders.{COMMANDS}", name=name):
        return _loaded(COMMANDS, entry).loaded
    return None


def plugins_of(group: str) -> dict[str, Any]:
    """Return the loaded objects of a group by name."""
    return {
        plugin.name: plugin.loaded for plugin in load_plugins() if plugin.group == group and not plugin.error
    }


def _loaded(group: str, entry: EntryPoint) -> Plugin:
    package = "unknown" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    try:
        loaded = entry.load()
    except Exception as error:  # whatever another package's import raises: it must not end our command
        return Plugin(group, entry.name, entry.value, package, error=in_one_line(error))
    missing = [name for name in _NEEDED[group] if not hasattr(loaded, name)]
    if missing:
        reason = f"it has no {', '.join(missing)}; see intruders/system/plugins.py"
        return Plugin(group, entry.name, entry.value, package, error=reason)
    return Plugin(group, entry.name, entry.value, package, loaded)
