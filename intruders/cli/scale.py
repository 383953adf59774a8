"""``intruders scale``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def scale(
    base: Annotated[
        str,
        typer.Argument(
            help="The model before fine-tuning: a folder, a file, a hub id, or smollm2-135m or minilm-l6. "
            "May be left out before an adapter that names its base."
        ),
    ],
    tuned: Annotated[str | None, typer.Argument(help="The adapter, or the fine-tuned model.")] = None,
    target: Annotated[
        int, typer.Option(help="Give the largest scale with at most so many intruders in the whole model.")
    ] = 0,
    k: Annotated[int, typer.Option(help="Leading singular vectors examined in each matrix.")] = 10,
    epsilon: Annotated[float, typer.Option(help="Cosine below which a vector resembles no other.")] = 0.5,
    include: Annotated[list[str] | None, typer.Option(help="Only tensors that match this pattern.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No tensors that match this pattern.")] = None,
    include_embeddings: Annotated[
        bool, typer.Option("--include-embeddings", help="Also embeddings and output heads.")
    ] = False,
    json: Annotated[
        str | None, typer.Option("--json", help="Write the result as JSON; - for standard output.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep what is learnt of the base for the next time.")
    ] = True,
) -> None:
    """How far an adapter's scale can be turned up before intruder dimensions appear, per matrix and in all."""
    from json import dumps

    from ..detection.files import check_writable, write_atomically
    from ..detection.scale import critical_scales
    from ..reports.scale import scale_lines
    from .progress import stage_progress

    if json is not None and json != "-":
        check_writable(json)
    given = (None, base) if tuned is None else (base, tuned)
    with stage_progress() as progress:
        result = critical_scales(
            *given,
            k=k,
            epsilon=epsilon,
            target=target,
            include=include or (),
            exclude=exclude or (),
            include_embeddings=include_embeddings,
            device=device,
            cache=cache,
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
