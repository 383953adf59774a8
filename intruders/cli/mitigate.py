"""``intruders mitigate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mitigate(
    base: Annotated[
        str,
        typer.Argument(
            help="The model before fine-tuning: a folder, a file, a hub id, or smollm2-135m or minilm-l6. "
            "May be left out before an adapter that names its base."
        ),
    ],
    tuned: Annotated[str | None, typer.Argument(help="The model after it, or its adapter.")] = None,
    scale: Annotated[
        float, typer.Option(help="Share of every intruder to keep: 0 removes, 1 changes nothing.")
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Folder to write; it appears whole or not at all.")] = ...,  # type: ignore[assignment]
    control: Annotated[
        str | None,
        typer.Option(help="Change something else instead: shrink, random, neighbours or update."),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(help="keep, or a number: cut an adapter back to that rank; the error is stated."),
    ] = None,
    form: Annotated[str, typer.Option("--as", help="adapter, checkpoint, or auto: what was given.")] = "auto",
    audit: Annotated[
        Path | None, typer.Option(help="A saved audit of these two, instead of a new one.")
    ] = None,
    k: Annotated[int, typer.Option(help="Leading singular vectors examined in each matrix.")] = 10,
    epsilon: Annotated[float, typer.Option(help="Cosine below which a vector resembles no other.")] = 0.5,
    include: Annotated[list[str] | None, typer.Option(help="Only tensors that match this pattern.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No tensors that match this pattern.")] = None,
    include_embeddings: Annotated[
        bool, typer.Option("--include-embeddings", help="Also embeddings and output heads.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the control random.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder where it is a model or adapter.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Audit what was written, too.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep what is learnt of the base for the next time.")
    ] = True,
) -> None:
    """Scale the intruder dimensions of a fine-tuned model down, or what a control puts in their place."""
    from ..mitigation.controls import INTRUDERS
    from ..mitigation.mitigate import mitigate as run
    from .progress import stage_progress

    given = (None, base) if tuned is None else (base, tuned)
    with stage_progress() as progress:
        result = run(
            *given,
            scale=scale,
            out=out,
            control=control or INTRUDERS,
            rank=int(rank) if rank is not None and rank.isdecimal() else rank,
            form=form,
            audit=audit,
            k=k,
            epsilon=epsilon,
            include=include or (),
            exclude=exclude or (),
            include_embeddings=include_embeddings,
            seed=seed,
            force=force,
            check=check,
            device=device,
            cache=cache,
            progress=progress,
        )
    for line in result.lines():
        typer.echo(line)
    typer.echo(f"written to {out}")
