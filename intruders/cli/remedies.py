"""``intruders remedies``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings, Compute
from ..experiments.experiment_settings import ComparisonSettings
from ..measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .output import check_json, put_json, report_if_possible, resumable
from .saved_audit import audit_or_settings


@examples(
    (
        "Find the remedy for your model, and resume if stopped",
        "intruders remedies smollm2-135m my-adapter --loss-on pydoc --task word-problems --out found",
    ),
    (
        "Compare two remedies only",
        "intruders remedies smollm2-135m my-adapter --loss-on pydoc --task word-problems --only lines,budget",
    ),
)
@setting_options.of(ComparisonSettings, "comparison")
@setting_options.of(
    LossSettings,
    "losses",
    reworded={
        "loss_on": "Text to measure forgetting on: pydoc, a text or data file, a folder, a Hub corpus such as c4, or a "
        "mixture A@0.7+B@0.3; repeatable.",
        "max_documents": "Number of documents per corpus, sampled with --seed: half choose strengths, half are "
        "reported.",
    },
)
@setting_options.of(
    ScoreSettings,
    "scores",
    without=["split"],  # strengths are chosen on the validation split, and the test split is reported
    reworded={
        "tasks": "Task that the model was tuned for: word-problems, pydoc-topics, a Hub task such as sst2, or a data "
        "file; further ones are measured too.",
        "max_examples": "Number of examples per task and split, from the first.",
    },
)
@setting_options.of(
    HarnessSettings,
    "harness",
    reworded={
        "lm_eval": "Comma-separated tasks of lm-evaluation-harness, scored on --max-examples of each; they count among "
        "the four parts."
    },
)
@setting_options.of(AuditSettings, "settings", only=FINDING_INTRUDERS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(Loading, "loading", only=["dtype"])
@options.with_cache_and_device
def remedies(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    comparison: ComparisonSettings,
    losses: LossSettings,
    scores: ScoreSettings,
    harness: HarnessSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, options.seed_of("halves, samples, random controls and of the bootstrap")] = 0,
    audit: options.SavedAudit = None,
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for remedies.json, remedies.parquet, report.html, figures and finished evaluations. Run the "
            "same command again to resume. [default: nothing is written]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    json: options.JsonOrStdout = None,
) -> None:
    """Compare remedies against forgetting on your model.

    Changes weights in memory only. Names the remedy to use and the command that writes it.
    """
    from rich.console import Console

    from ..experiments.compare_remedies import compare_remedies
    from ..reports.remedies import print_comparison, write_remedies_report
    from .progress import progress_bar

    check_json(json)
    kept = nullcontext() if out is None else resumable("finished evaluations are kept")
    with kept, progress_bar() as progress:
        result = compare_remedies(
            base,
            tuned,
            comparison=comparison,
            losses=losses,
            scores=scores,
            harness=harness,
            audit=audit_or_settings(audit, settings),
            data_seed=data_seed,
            seed=seed,
            out=out,
            loading=loading,
            compute=compute,
            progress=progress,
        )
    if out is not None:
        result.save(out)
        with report_if_possible():
            write_remedies_report(result, out)
    if not put_json(result.to_document(), json):
        print_comparison(result, Console())
