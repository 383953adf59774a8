"""``intruders advise``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..audits.audit_settings import AuditSettings
from . import options, setting_options
from .command import examples


@examples(
    ("Suggest what to change in a finished run", "intruders advise runs/rank1"),
    (
        "Use a saved audit and the critical scales beside it",
        "intruders advise runs/rank1/audit.json --json advice.json",
    ),
)
@setting_options.of(AuditSettings, "settings", only=["k", "epsilon"])
def advise(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A saved audit or a folder with one, the folder of a study, an adapter, a run of intruders "
            "finetune, or a base model: a folder, a file, a Hub id, smollm2-135m or minilm-l6.",
        ),
    ],
    *,
    settings: AuditSettings,
    json: options.JsonOrStdout = None,
) -> None:
    """Suggest what to change, with evidence from your results.

    Covers rank, alpha, learning rate, update scale and mitigation.
    """
    from json import dumps

    from ..studies.advice.advise import advise as run
    from ..system.files import check_writable, write_atomically
    from .progress import stage_progress

    if json is not None and json != "-":
        check_writable(json)
    with stage_progress() as progress:
        found = run(source, k=settings.k, epsilon=settings.epsilon, progress=progress)
    document = dumps(found.to_document(), allow_nan=False, ensure_ascii=False) + "\n"
    if json == "-":
        sys.stdout.write(document)
        return
    if json is not None:
        write_atomically(json, document.encode())
    for line in found.lines():
        typer.echo(line)
