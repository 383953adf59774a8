"""``intruders scale``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import options
from .command import examples


@examples(
    ("Find the largest update scale without intruders", "intruders scale smollm2-135m my-adapter"),
    (
        "Allow five intruders, and save the scales for a report",
        "intruders scale smollm2-135m my-adapter --target 5 --json scale.json",
    ),
)
def scale(
    base: options.Base,
    tuned: options.Tuned = None,
    target: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of intruders to allow in the whole model.",
            rich_help_panel=options.INTRUDERS,
        ),
    ] = 0,
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    include_embeddings: options.IncludeEmbeddings = False,
    device: options.Device = "auto",
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    json: options.JsonOrStdout = None,
) -> None:
    """Find the largest update scale without intruders.

    Reports the critical scale of each matrix and of the whole model.
    """
    from json import dumps

    from ..audits.critical_scales import critical_scales
    from ..reports.scales_text import scale_lines
    from ..system.files import check_writable, write_atomically
    from .progress import stage_progress

    if json is not None and json != "-":
        check_writable(json)
    with stage_progress() as progress:
        result = critical_scales(
            *options.both_sides(base, tuned),
            k=k,
            epsilon=epsilon,
            target=target,
            include=include or (),
            exclude=exclude or (),
            include_embeddings=include_embeddings,
            device=device,
            cache=options.chosen_cache(cache, no_cache),
            progress=progress,
        )
    document = dumps(result.to_document(), allow_nan=False, ensure_ascii=False) + "\n"
    if json == "-":
        sys.stdout.write(document)
        return
    if json is not None:
        write_atomically(json, document.encode())
    for line in scale_lines(result):
        typer.echo(line)
