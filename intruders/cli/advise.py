"""``intruders advise``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..audits.audit_settings import AuditSettings
from . import options, setting_options
from .command import examples
from .output import check_json, put_json, say


@examples(
    ("Suggest what to change in a finished run", "intruders advise runs/rank1"),
    (
        "Use a saved audit and the critical scales next to it",
        "intruders advise runs/rank1/audit.json --json advice.json",
    ),
)
@setting_options.of(AuditSettings, "settings", only=["k", "epsilon"])
def advise(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A saved audit or a folder with one, an adapter, a run of intruders finetune, or a base model: "
            f"{options.MODEL_IS}.",
        ),
    ],
    *,
    settings: AuditSettings,
    json: options.JsonOrStdout = None,
) -> None:
    """Suggest what to change, with evidence from your results.

    Covers rank, alpha, learning rate, update scale and mitigation.
    """
    from ..reports.advice import advice_lines
    from ..reports.advise import advise as run
    from .progress import progress_bar

    check_json(json)
    with progress_bar() as progress:
        advice = run(source, k=settings.k, epsilon=settings.epsilon, progress=progress)
    if put_json(advice.to_document(), json):
        return
    say(advice_lines(advice))
