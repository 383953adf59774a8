"""``intruders audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def audit(
    base: Annotated[
        str,
        typer.Argument(
            help="The model before fine-tuning: a folder, a file, a hub id, or smollm2-135m or minilm-l6. "
            "May be left out before an adapter that names its base."
        ),
    ],
    tuned: Annotated[str | None, typer.Argument(help="The model after it, or its adapter.")] = None,
    k: Annotated[int, typer.Option(help="Leading singular vectors examined in each matrix.")] = 10,
    epsilon: Annotated[float, typer.Option(help="Cosine below which a vector resembles no other.")] = 0.5,
    include: Annotated[list[str] | None, typer.Option(help="Only tensors that match this pattern.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No tensors that match this pattern.")] = None,
    include_embeddings: Annotated[
        bool, typer.Option("--include-embeddings", help="Also audit embeddings and output heads.")
    ] = False,
    split_fused: Annotated[
        bool, typer.Option("--split-fused", help="Judge q, k and v of a fused weight one by one.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Decompose every matrix in full (slow).")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads that judge small matrices side by side.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for what is learnt of the base; the user's cache folder if not given."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep anything.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    skip_non_finite: Annotated[
        bool,
        typer.Option("--skip-non-finite", help="List matrices with NaN or infinity instead of refusing."),
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", help="Write the result as JSON; - for standard output, and nothing else there."
        ),
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write the result as Parquet, one row a vector.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report, one HTML file.")] = None,
    fail_above: Annotated[
        int | None, typer.Option(help="Exit with status 1 when there are more intruders than this.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every matrix.")] = False,
) -> None:
    """Find the intruder dimensions that a fine-tuning left in a model's weights."""
    from rich.console import Console

    from ..detection.audit import audit as run
    from ..detection.cache import DiskCache
    from ..detection.files import check_writable, write_atomically
    from ..reports.progress import audit_progress
    from ..reports.terminal import print_audit

    if tuned is None:
        given: tuple[str | None, str] = (None, base)
    else:
        given = (base, tuned)
    for path in (None if json == "-" else json, parquet, html):
        if path is not None:
            check_writable(path)
    if html is not None:
        from ..reports.html import check_can_write_html

        check_can_write_html(html)
    with audit_progress() as progress:
        result = run(
            *given,
            k=k,
            epsilon=epsilon,
            include=include or (),
            exclude=exclude or (),
            include_embeddings=include_embeddings,
            split_fused=split_fused,
            exact=exact,
            device=device,
            workers=workers,
            cache=False if no_cache else True if cache is None else DiskCache(cache),
            skip_non_finite=skip_non_finite,
            progress=progress,
        )
    # Files first: a reader of the table that goes away (`| head`) must not cost them.
    if json is not None and json != "-":
        write_atomically(json, (result.to_json() + "\n").encode())
    if parquet is not None:
        from ..detection.parquet import to_parquet

        write_atomically(parquet, to_parquet(result))
    if html is not None:
        from ..reports.html import write_html

        write_html(result, html)
    if json == "-":
        sys.stdout.write(result.to_json() + "\n")
    else:
        print_audit(result, Console(), verbose=verbose)
    if fail_above is not None and result.intruders > fail_above:
        print(f"{result.intruders} intruder dimensions, more than {fail_above}", file=sys.stderr)
        raise typer.Exit(1)
