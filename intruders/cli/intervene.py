"""``intruders intervene``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings, Compute
from ..experiments.experiment_settings import AS_IN_THE_PAPER, IN_QUARTERS, SweepSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .output import check_json, put_json, resumable, say
from .saved_audit import audit_or_settings


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
@setting_options.of(IN_QUARTERS, "given", only=["scales", "controls", "which"], over_a_file=True)
@setting_options.of(LossSettings, "losses")
@setting_options.of(ScoreSettings, "scores")
@setting_options.of(AuditSettings, "settings", only=FINDING_INTRUDERS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(Loading, "loading", only=["dtype"])
@options.with_cache_and_device
def intervene(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Measure the paper's intervention: --which top --controls neighbours --scales 0.1,0.3,0.5,0.7,0.9, "
            "where you give no others.",
            rich_help_panel="Intervention",
        ),
    ] = False,
    given: dict[str, Any],
    losses: LossSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, options.seed_of("the control random, of document samples and of the bootstrap")] = 0,
    scores: ScoreSettings,
    audit: options.SavedAudit = None,
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    keep: options.Keep = None,
    json: options.JsonOrStdout = None,
) -> None:
    """Measure the effect of scaling intruders, with controls.

    Changes weights in memory only and writes no model.
    """
    from ..experiments.intervene import intervene as run
    from ..reports.intervene import sweep_lines
    from .progress import progress_bar

    check_json(json)
    sweep = SweepSettings.from_mapping((AS_IN_THE_PAPER if paper else IN_QUARTERS).values() | given)
    kept = nullcontext() if keep is None else resumable(f"finished measures are kept in {keep}", keep)
    with kept, progress_bar() as progress:
        result = run(
            base,
            tuned,
            sweep=sweep,
            losses=losses,
            scores=scores,
            audit=audit_or_settings(audit, settings),
            data_seed=data_seed,
            seed=seed,
            keep=keep,
            loading=loading,
            compute=compute,
            progress=progress,
        )
    if put_json(result.to_document(), json):
        return
    say(sweep_lines(result))
