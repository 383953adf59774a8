"""``intruders card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command import examples
from .output import say


@examples(
    ("Describe an adapter's audit in its model card", "intruders card audit.json my-adapter/README.md"),
    ("Describe it in README.md of this folder", "intruders card audit.parquet"),
)
def card(
    audit: Annotated[
        Path,
        typer.Argument(metavar="AUDIT", help="A saved audit (.json or .parquet)."),
    ],
    readme: Annotated[
        Path,
        typer.Argument(
            metavar="README", help="The model card, a Markdown file. It is made if it does not exist."
        ),
    ] = Path("README.md"),
) -> None:
    """Write what an audit found into a model card.

    The section replaces the one of an earlier call. Everything else in the card stays as it is.
    """
    from ..reports.model_card import write_card

    say([str(write_card(audit, readme))], whole=True)
