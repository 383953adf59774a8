"""``intruders advise``, on a study too, and with the verdicts of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intruders.audits.audit_settings import AuditSettings
from intruders.cli import options, setting_options
from intruders.cli.command import examples
from intruders.cli.output import check_json, put_json, say


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
            help="A saved audit or a folder with one, the folder of a study, an adapter, a run of intruders "
            f"finetune, or a base model: {options.MODEL_IS}.",
        ),
    ],
    study: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of a study whose verdicts on the same base to print with the advice; repeatable. "
            "[default: none]",
        ),
    ] = None,
    *,
    settings: AuditSettings,
    json: options.JsonOrStdout = None,
) -> None:
    """Suggest what to change, with evidence from your results.

    Covers rank, alpha, learning rate, update scale and mitigation.
    """
    from intruders.cli.progress import progress_bar
    from intruders.reports.advice import advice_lines

    from ..advice.advise import advise as run

    check_json(json)
    with progress_bar() as progress:
        advice = run(source, k=settings.k, epsilon=settings.epsilon, studies=study or (), progress=progress)
    if put_json(advice.to_document(), json):
        return
    say(advice_lines(advice))
