"""``intruders advise``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def advise(
    source: Annotated[
        str,
        typer.Argument(
            help="A saved audit or a folder with one, the folder of a study, an adapter or a run of intruders "
            "finetune, or a base: a folder, a file, a hub id, or smollm2-135m or minilm-l6."
        ),
    ],
    k: Annotated[int, typer.Option(help="Leading singular vectors examined, where an audit is made.")] = 10,
    epsilon: Annotated[float, typer.Option(help="Cosine below which a vector resembles no other.")] = 0.5,
    json: Annotated[
        str | None, typer.Option("--json", help="Write the advice as JSON; - for standard output.")
    ] = None,
) -> None:
    """Say what to change (rank, alpha rule, scale, mitigation), with the evidence from your own numbers."""
    from json import dumps

    from ..detection.files import check_writable, write_atomically
    from ..studies.advise import advise as run
    from .progress import stage_progress

    if json is not None and json != "-":
        check_writable(json)
    with stage_progress() as progress:
        found = run(source, k=k, epsilon=epsilon, progress=progress)
    document = dumps(found.to_document(), allow_nan=False, ensure_ascii=False) + "\n"
    if json == "-":
        sys.stdout.write(document)
        return
    if json is not None:
        write_atomically(json, document.encode())
    for line in found.lines():
        typer.echo(line)
