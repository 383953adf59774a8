"""``intruders heal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..audits.audit_settings import FINDING_INTRUDERS, AuditSettings, Compute
from ..data.columns import Columns
from ..experiments.experiment_settings import HealSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .output import check_html, check_json, note, put_results, resumable
from .saved_audit import audit_or_settings


@examples(
    (
        "Give back what an adapter forgot, and keep its task",
        "intruders heal smollm2-135m my-adapter --task word-problems --loss-on pydoc --out healed",
    ),
    (
        "Keep what your own examples show; report a second text",
        (
            "intruders heal my-base my-adapter --task mine.jsonl --prompt question --completion answer --loss-on c4 "
            "--loss-on wikitext --out healed"
        ),
    ),
)
@setting_options.of(
    LossSettings,
    "losses",
    only=["loss_on"],
    reworded={
        "loss_on": "Text such as the base was trained on: pydoc, a text or data file, a folder or a Hub corpus such as "
        "c4. The doses are learned on the first; further ones are reported; repeatable.",
    },
)
@setting_options.of(
    ScoreSettings,
    "scores",
    only=["tasks"],
    reworded={
        "tasks": "Task to keep: word-problems, a Hub task such as sst2, or a data file with --prompt and --completion; "
        "further ones are reported; repeatable.",
    },
)
@setting_options.of(Columns, "columns")
@setting_options.of(HealSettings, "settings")
@setting_options.of(AuditSettings, "audit_settings", only=FINDING_INTRUDERS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(Loading, "loading", only=["dtype", "load_in"])
@options.with_cache_and_device
def heal(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    losses: LossSettings,
    scores: ScoreSettings,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts alone, in the place of --task: one a line, or a data file with the column prompt. The tuned "
            "model's own greedy answers are what to keep. [default: none]",
            rich_help_panel=options.MEASURES,
        ),
    ] = None,
    settings: HealSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[
        int,
        options.seed_of("halves, samples, the order of learning, the shuffled control and the bootstrap"),
    ] = 0,
    columns: Columns,
    audit: options.SavedAudit = None,
    audit_settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the healed model and heal.json. Unfinished work is in FOLDER.unfinished; run the same "
            "command again to resume.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    form: options.Form = "auto",
    force: options.Force = False,
    html: options.Html = None,
    json: options.JsonOrStdout = None,
) -> None:
    """Give back what fine-tuning forgot, keep what it learned.

    Learns one dose for every changed matrix from a little text and a few examples, and writes the model.
    """
    from rich.console import Console

    from ..experiments.heal import heal as run
    from ..reports.heal import print_healing, write_heal_report
    from .progress import progress_bar

    check_json(json)
    check_html(html)
    unfinished = Path(f"{out}.unfinished")
    with resumable(f"what was done is kept in {unfinished}", unfinished), progress_bar() as progress:
        healing = run(
            base,
            tuned,
            task=scores.tasks,
            loss_on=losses.loss_on,
            out=out,
            settings=settings,
            columns=columns,
            prompts=prompts,
            audit=audit_or_settings(audit, audit_settings),
            form=form,
            force=force,
            data_seed=data_seed,
            seed=seed,
            loading=loading,
            compute=compute,
            progress=progress,
            told=lambda line: note(f"note: {line}"),
        )
    if not put_results(healing.to_document(), json, html, lambda file: write_heal_report(healing, file)):
        print_healing(healing, Console())
