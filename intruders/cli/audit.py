"""``intruders audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options


def audit(
    base: options.Base,
    tuned: options.Tuned = None,
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    include_embeddings: options.IncludeEmbeddings = False,
    split_fused: Annotated[
        bool, typer.Option("--split-fused", help="Judge q, k and v of a fused weight one by one.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Decompose every matrix in full (slow).")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads that judge small matrices side by side.")
    ] = None,
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    device: options.Device = "auto",
    skip_non_finite: Annotated[
        bool,
        typer.Option("--skip-non-finite", help="List matrices with NaN or infinity instead of refusing."),
    ] = False,
    json: options.JsonOrStdout = None,
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
    from ..detection.files import check_writable, write_atomically
    from ..reports.progress import audit_progress
    from ..reports.terminal import print_audit

    for path in (None if json == "-" else json, parquet, html):
        if path is not None:
            check_writable(path)
    if html is not None:
        from ..reports.html import check_can_write_html

        check_can_write_html(html)
    with audit_progress() as progress:
        result = run(
            *options.both_sides(base, tuned),
            k=k,
            epsilon=epsilon,
            include=include or (),
            exclude=exclude or (),
            include_embeddings=include_embeddings,
            split_fused=split_fused,
            exact=exact,
            device=device,
            workers=workers,
            cache=options.chosen_cache(cache, no_cache),
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
