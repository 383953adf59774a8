"""``intruders scale``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ..audits.audit_settings import AuditSettings, Compute
from . import options, setting_options
from .command import examples
from .output import check_json, put_json, say, terminal_width


@examples(
    ("Find the largest update scale without intruders", "intruders scale smollm2-135m my-adapter"),
    (
        "Allow five intruders, and save the scales for a report",
        "intruders scale smollm2-135m my-adapter --target 5 --json scale.json",
    ),
)
@setting_options.of(AuditSettings, "settings", only=options.OF_WHOLE_WEIGHTS)
@setting_options.of(Compute, "compute", only=["device"])
def scale(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    target: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of intruders to allow in the model.",
            rich_help_panel=options.INTRUDERS,
        ),
    ] = 0,
    settings: AuditSettings,
    compute: Compute,
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    json: options.JsonOrStdout = None,
) -> None:
    """Find the largest update scale without intruders.

    Reports the critical scale of each matrix and of the model.
    """
    from ..audits.critical_scales import critical_scales
    from ..reports.scales_text import scale_lines
    from .progress import progress_bar

    check_json(json)
    with progress_bar() as progress:
        result = critical_scales(
            base,
            tuned,
            audit=settings,
            target=target,
            compute=replace(compute, cache=options.chosen_cache(cache, no_cache)),
            progress=progress,
        )
    if put_json(result.to_document(), json):
        return
    say(scale_lines(result, terminal_width()))
