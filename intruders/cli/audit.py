"""``intruders audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .command import examples


@examples(
    (
        "Audit a LoRA adapter and save the report as HTML",
        "intruders audit smollm2-135m my-adapter --html report.html",
    ),
    (
        "Exit with status 1 if there are more than 20 intruders",
        "intruders audit base-model tuned-model --fail-above 20",
    ),
)
def audit(
    base: options.Base,
    tuned: options.Tuned = None,
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    include_embeddings: options.IncludeEmbeddings = False,
    split_fused: Annotated[
        bool,
        typer.Option(
            "--split-fused",
            help="Audit the q, k and v parts of fused weights as separate matrices.",
            rich_help_panel=options.INTRUDERS,
        ),
    ] = False,
    skip_non_finite: Annotated[
        bool,
        typer.Option(
            "--skip-non-finite",
            help="Skip matrices that contain NaN or infinity instead of stopping.",
            rich_help_panel=options.INTRUDERS,
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Decompose every matrix in full. This is slow and makes all bounds tight.",
            rich_help_panel=options.COMPUTATION,
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of threads for small matrices. [default: torch's]",
            rich_help_panel=options.COMPUTATION,
        ),
    ] = None,
    device: options.Device = "auto",
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    json: options.JsonOrStdout = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the result as Parquet to this file, one row per vector. [default: not written]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the report as one HTML file. [default: not written]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    fail_above: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Exit with status 1 if there are more intruders than this number. [default: no limit]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="List every matrix.", rich_help_panel=options.OUTPUT),
    ] = False,
) -> None:
    """Find the intruder dimensions of a fine-tuned model.

    Prints a table. --json, --parquet and --html save the result.
    """
    from rich.console import Console

    from ..audits.audit import audit as run
    from ..reports.audit_text import print_audit
    from ..system.files import check_writable, write_atomically
    from .progress import audit_progress

    for path in (None if json == "-" else json, parquet, html):
        if path is not None:
            check_writable(path)
    if html is not None:
        from ..reports.html_page import check_can_write_html

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
    # Write files first: they must survive a reader of the table that stops early (`| head`).
    if json is not None and json != "-":
        write_atomically(json, (result.to_json() + "\n").encode())
    if parquet is not None:
        write_atomically(parquet, result.to_parquet())
    if html is not None:
        from ..reports.html_page import write_html

        write_html(result, html)
    if json == "-":
        sys.stdout.write(result.to_json() + "\n")
    else:
        print_audit(result, Console(), verbose=verbose)
    if fail_above is not None and result.intruders > fail_above:
        print(
            f"{result.intruders} intruders, more than the {fail_above} that --fail-above allows",
            file=sys.stderr,
        )
        raise typer.Exit(1)
