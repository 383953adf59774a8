"""``intruders attribute``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings, Compute
from ..data.columns import Columns
from ..experiments.experiment_settings import AttributionSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .output import check_html, check_json, put_results, resumable
from .saved_audit import audit_or_settings


@examples(
    (
        "Show which matrices made a model forget",
        "intruders attribute smollm2-135m my-adapter --loss-on pydoc",
    ),
    (
        "Add what they do for the task, and save the parts",
        "intruders attribute smollm2-135m my-adapter --loss-on pydoc --task word-problems --parquet parts.parquet",
    ),
)
@setting_options.of(
    LossSettings,
    "losses",
    only=["loss_on"],
    reworded={
        "loss_on": "Text such as the base was trained on: pydoc, a text or data file, a folder or a Hub corpus such as "
        "c4. The tables are sorted by the first; repeatable.",
    },
)
@setting_options.of(
    ScoreSettings,
    "scores",
    only=["tasks"],
    reworded={
        "tasks": "Task that was learned, whose loss is split too: word-problems, a Hub task such as sst2, or a data "
        "file; repeatable.",
    },
)
@setting_options.of(Columns, "columns")
@setting_options.of(AttributionSettings, "settings")
@setting_options.of(AuditSettings, "audit_settings", only=FINDING_INTRUDERS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(Loading, "loading", only=["dtype", "load_in"])
@options.with_cache_and_device
def attribute(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    losses: LossSettings,
    scores: ScoreSettings,
    columns: Columns,
    settings: AttributionSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, options.seed_of("samples, masked tokens and the bootstrap")] = 0,
    audit: options.SavedAudit = None,
    audit_settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    keep: options.Keep = None,
    parquet: Annotated[Path | None, options.parquet_of("matrix and measure")] = None,
    html: options.Html = None,
    json: options.JsonOrStdout = None,
) -> None:
    """Show which matrices made a model forget.

    Splits the rise of the loss into parts by matrix, layer and kind of module, which sum to the measured rise.
    """
    from rich.console import Console

    from ..experiments.attribute import attribute as run
    from ..reports.attribute import print_attribution, write_attribution_report
    from ..system.files import check_writable, write_atomically
    from .progress import progress_bar

    check_json(json)
    if parquet is not None:
        check_writable(parquet)
    check_html(html)
    kept = nullcontext() if keep is None else resumable(f"finished parts are kept in {keep}", keep)
    with kept, progress_bar() as progress:
        attribution = run(
            base,
            tuned,
            loss_on=losses.loss_on,
            task=scores.tasks,
            settings=settings,
            columns=columns,
            audit=audit_or_settings(audit, audit_settings),
            data_seed=data_seed,
            seed=seed,
            keep=keep,
            loading=loading,
            compute=compute,
            progress=progress,
        )
    if parquet is not None:
        write_atomically(parquet, attribution.to_pandas().to_parquet(index=False))
    document = attribution.to_document()
    if not put_results(document, json, html, lambda file: write_attribution_report(attribution, file)):
        print_attribution(attribution, Console())
