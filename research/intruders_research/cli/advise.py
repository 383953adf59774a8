"""``intruders advise``: what to change, by a study."""

from __future__ import annotations

from typing import Annotated

import typer

from intruders.cli import options
from intruders.cli.command import examples
from intruders.cli.output import check_json, put_json, say


@examples(
    ("Suggest what to change, by a finished study", "intruders advise runs/rates"),
    ("The same as JSON in a file", "intruders advise runs/rates --json advice.json"),
)
def advise(
    study: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of a study.")],
    json: options.JsonOrStdout = None,
) -> None:
    """Suggest what to change, with evidence from a study.

    Covers rank, alpha, learning rate, update scale and mitigation, where they are clear over the study's seeds.
    """
    from ..advice.advise import advise as run
    from ..advice.advised import advice_lines

    check_json(json)
    advised = run(study)
    if not put_json(advised.to_document(), json):
        say(advice_lines(advised))
