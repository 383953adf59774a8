"""``intruders mitigate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def mitigate(
    base: options.Base,
    tuned: options.Tuned = None,
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
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    include_embeddings: options.IncludeEmbeddings = False,
    seed: Annotated[int, typer.Option(help="Of the control random.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder where it is a model or adapter.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Audit what was written, too.")] = True,
    device: options.Device = "auto",
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
) -> None:
    """Scale the intruder dimensions of a fine-tuned model down, or what a control puts in their place."""
    from ..mitigation.controls import INTRUDERS
    from ..mitigation.mitigate import mitigate as run
    from .progress import stage_progress

    with stage_progress() as progress:
        result = run(
            *options.both_sides(base, tuned),
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
            cache=options.chosen_cache(cache, no_cache),
            progress=progress,
        )
    for line in result.lines():
        typer.echo(line)
    typer.echo(f"written to {out}")
