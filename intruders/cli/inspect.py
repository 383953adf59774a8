"""``intruders inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import SettingError
from . import options
from .command import examples
from .output import put_json, say, terminal_width

ModelPath = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help=f"A model or adapter: {options.MODEL_IS}, or a sum such as A@0.7+B@0.3.",
    ),
]
Other = Annotated[
    str | None,
    typer.Argument(
        metavar="OTHER",
        help="A second adapter, to compare the updates of both. [default: none]",
        show_default=False,
    ),
]
InspectedBase = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Base model of the audit: adds the matrices to examine. [default: none]"
    ),
]
Energy = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of the squared singular values of an adapter's update that the shown ranks and subspaces keep, "
        "above 0 and at most 1.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, and nothing else.", rich_help_panel=options.OUTPUT),
]


@examples(
    ("Show the format of an adapter and its ranks in use", "intruders inspect my-adapter"),
    ("Compare the updates of two adapters", "intruders inspect first-adapter second-adapter"),
)
def inspect(
    path: ModelPath,
    other: Other = None,
    base: InspectedBase = None,
    energy: Energy = 0.99,
    json: Json = False,
    verbose: Annotated[bool, options.verbose_of("tensor")] = False,
) -> None:
    """Show what a model or adapter path contains.

    Lists format, tensors and the matrices that an audit would examine. Of an adapter it measures the update without
    the base. Of two adapters it compares the updates.
    """
    from ..audits.update_alone import compare_updates, update_of
    from ..checkpoints.adapters.adapter import Adapter
    from ..checkpoints.pairing.inspect import inspect_parts, open_parts
    from ..reports.inspection import inspection_lines, overlap_lines, update_lines

    file = next((given for given in (path, other) if given is not None and given.endswith(".json")), None)
    if json and file is not None:
        raise SettingError(
            f"'{file}' was passed with --json, which takes no file here; expected an adapter or model; leave it out, "
            f"and write > {file} at the end of the command"
        )
    if other is not None:
        if base is not None:
            raise SettingError(
                f"--base '{base}' was passed with two adapters; expected one of the two; omit --base"
            )
        overlap = compare_updates(path, other, energy)
        if json:
            put_json(overlap.to_document(), "-")
        else:
            say(overlap_lines(overlap, verbose))
        return
    parts = open_parts(path)
    inspections = inspect_parts(parts, base)
    updates = [update_of(part, energy) if isinstance(part, Adapter) else None for part, _ in parts]
    if json:
        documents = [
            inspection.to_document() | {"update": None if update is None else update.to_document()}
            for inspection, update in zip(inspections, updates, strict=True)
        ]
        put_json(documents, "-")
        return
    for inspection, update in zip(inspections, updates, strict=True):
        say(inspection_lines(inspection, verbose, terminal_width()))
        if update is not None:
            say(update_lines(update, verbose))
