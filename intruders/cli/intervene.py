"""``intruders intervene``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ..audits.audit_settings import AuditSettings, Compute
from ..evaluation.measure_settings import IN_QUARTERS, LossSettings, ScoreSettings, SweepSettings
from . import options, setting_options
from .command import examples


@examples(
    (
        "Measure the pre-training loss with scaled intruders",
        "intruders intervene smollm2-135m my-adapter --loss-on pydoc --max-documents 40",
    ),
    (
        "Compare two intruder scales with one control, on a task",
        "intruders intervene smollm2-135m my-adapter --scales 0.3,0.6 --controls shrink --task word-problems",
    ),
)
@setting_options.of(IN_QUARTERS, "sweep", only=["scales", "controls"])
@setting_options.of(LossSettings, "losses")
@setting_options.of(ScoreSettings, "scores", without=["score", "validation_file", "test_file", "no_header"])
@setting_options.of(AuditSettings, "settings", only=["k", "epsilon", "include", "exclude"])
@setting_options.of(Compute, "compute", only=["device"])
def intervene(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    sweep: SweepSettings,
    losses: LossSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of the control random, of document samples and of the bootstrap.",
            rich_help_panel=options.MEASURES,
        ),
    ] = 0,
    scores: ScoreSettings,
    settings: AuditSettings,
    compute: Compute,
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the result as JSON to this file. [default: not written]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Measure the effect of scaling intruders, with controls.

    Changes weights in memory only and writes no model.
    """
    from json import dumps

    from ..evaluation.intervene import intervene as run
    from ..evaluation.sweep_words import document, lines
    from ..system.files import check_writable, write_atomically
    from .progress import stage_progress

    if json is not None:
        check_writable(json)
    with stage_progress() as progress:
        found = run(
            *options.both_sides(base, tuned),
            sweep=sweep,
            losses=losses,
            scores=scores,
            audit=settings,
            data_seed=data_seed,
            seed=seed,
            compute=replace(compute, cache=options.chosen_cache(cache, no_cache)),
            progress=progress,
        )
    for line in lines(found):
        typer.echo(line)
    if json is not None:
        write_atomically(json, (dumps(document(found), ensure_ascii=False) + "\n").encode())
