"""``intruders inspect``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A model or adapter: a folder, a file, a hub id, an alias, or a sum A@0.7+B@0.3."
        ),
    ],
    base: Annotated[str | None, typer.Option(help="The base it would be audited against.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON, and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every tensor.")] = False,
) -> None:
    """Show what a path is read as: format, tensors, ranks, scales, and what would be audited."""
    from json import dumps

    from ..checkpoints.inspect import inspect as run
    from ..checkpoints.inspect_text import inspection_lines

    found = run(path, base)
    if json:
        sys.stdout.write(dumps([inspection.to_dict() for inspection in found], indent=2) + "\n")
        return
    for inspection in found:
        for line in inspection_lines(inspection, verbose):
            typer.echo(line)
