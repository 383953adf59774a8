"""``intruders verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .command import examples
from .output import check_json, put_json, refusal_as_sarif


@examples(
    (
        "Check that a merged model contains its adapter",
        "intruders verify smollm2-135m my-adapter merged-model",
    ),
    (
        "Check the sum of two adapters, and save the verdicts",
        "intruders verify base-model A@0.7+B@0.3 merged-model --json verdicts.json",
    ),
)
def verify(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"Model before the merge: {options.MODEL_IS}.")],
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Adapter that was merged: a folder, a file, a Hub id, or a sum: A@0.7+B@0.3.",
        ),
    ],
    merged: Annotated[
        str, typer.Argument(metavar="MERGED", help="Model that should contain the adapter: as BASE.")
    ],
    split_fused: Annotated[
        bool,
        typer.Option(
            "--split-fused", help="Check the q, k and v parts of fused weights as separate matrices."
        ),
    ] = False,
    allow_other: Annotated[
        bool,
        typer.Option(
            "--allow-other", help="Accept a merged model that also changed tensors outside the adapter."
        ),
    ] = False,
    json: options.JsonOrStdout = None,
    sarif: options.Sarif = None,
    verbose: Annotated[bool, options.verbose_of("matrix and every other tensor")] = False,
) -> None:
    """Check that a merged model is its base plus an adapter.

    Exits with status 0 if the adapter is applied, 1 if something is wrong, 2 if a model cannot be read, and 3 if
    rounding or quantization hides the answer.
    """
    from rich.console import Console

    from ..checkpoints.merges.verify import verify as run
    from ..reports.verification import print_verification
    from .progress import progress_bar

    with refusal_as_sarif(sarif, merged), progress_bar() as progress:
        check_json(json)
        result = run(base, adapter, merged, split_fused=split_fused, progress=progress)
    if sarif is not None:
        from ..reports.sarif import verification_findings, write_sarif

        write_sarif(verification_findings(result, allow_other), sarif)
    if not put_json(result.to_document(allow_other), json):
        print_verification(result, Console(), verbose=verbose, allow_other=allow_other)
    raise typer.Exit(result.exit_status(allow_other))
