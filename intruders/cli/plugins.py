"""``intruders plugins``."""

from __future__ import annotations

from typing import Annotated

import typer

from .command import examples
from .output import put_json, say

SCHEMA = 1


@examples(
    ("List what other packages add, and what failed to load", "intruders plugins"),
    ("The same as JSON", "intruders plugins --json"),
)
def plugins(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """List the formats, remedies and tasks of other packages.

    Lists corpora and claims too, each with its package, and names each plugin that could not be loaded.
    """
    from ..system.plugins import load_plugins

    loaded = load_plugins()
    if json:
        rows = [
            {key: getattr(plugin, key) for key in ("group", "name", "value", "package", "error")}
            for plugin in loaded
        ]
        put_json({"schema": SCHEMA, "plugins": rows}, "-")
        return
    if not loaded:
        say(["no plugins are installed"])
    for plugin in loaded:
        failed = "" if plugin.error is None else f", not loaded: {plugin.error}"
        say([f"{plugin.group}: {plugin.name} from {plugin.package} ({plugin.value}){failed}"])
