"""``intruders inspect``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .command import examples
from .output import say


@examples(
    ("Show the format, tensors, ranks and scales of an adapter", "intruders inspect my-adapter"),
    (
        "Show which matrices an audit would examine",
        "intruders inspect my-adapter --base smollm2-135m",
    ),
)
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A model or adapter: a folder, a file, a Hub id, smollm2-135m or minilm-l6, or a sum such as "
            "A@0.7+B@0.3.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Base model of the audit: adds the matrices to examine. [default: none]"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every tensor.")] = False,
) -> None:
    """Show what a model or adapter path contains.

    Lists format, tensors, ranks, scales, and the matrices that an audit would examine.
    """
    from json import dumps

    from ..checkpoints.pairing.inspect import inspect as run
    from ..checkpoints.pairing.inspect import inspection_lines

    inspections = run(path, base)
    if json:
        sys.stdout.write(dumps([inspection.to_dict() for inspection in inspections], indent=2) + "\n")
        return
    for inspection in inspections:
        say(inspection_lines(inspection, verbose))
