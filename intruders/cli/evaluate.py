"""``intruders evaluate``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .output import refuse_given, resumable, say

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder of a run, a model or an adapter, a Hub id, smollm2-135m or minilm-l6.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Model before fine-tuning, as MODEL; adds its loss and the change from it. [default: none]",
        rich_help_panel=options.MEASURES,
    ),
]
ReportedHalf = Annotated[
    bool,
    typer.Option(
        "--reported-half",
        help="Measure only the half of documents and examples that heal, scale and remedies report on, at the "
        "same --max-documents, --max-examples, --seed and --data-seed.",
        rich_help_panel=options.MEASURES,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for the result as JSON and Parquet. [default: not written]",
        rich_help_panel=options.OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace the evaluation in the folder of --out.", rich_help_panel=options.OUTPUT
    ),
]


@examples(
    (
        "Measure the rise of the loss on 20 documents",
        "intruders evaluate my-adapter --base smollm2-135m --loss-on pydoc --max-documents 20",
    ),
    (
        "Score a run on 100 examples, and save the result",
        "intruders evaluate runs/rank1 --task word-problems --max-examples 100 --out evaluations/rank1",
    ),
)
@setting_options.of(LossSettings, "losses")
@setting_options.of(HarnessSettings, "harness")
@setting_options.of(ScoreSettings, "scores")
@setting_options.of(Loading, "loading")
def evaluate(
    model: Model,
    base: Base = None,
    *,
    losses: LossSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, options.seed_of("document samples, of masks and of the bootstrap")] = 0,
    reported_half: ReportedHalf = False,
    harness: HarnessSettings,
    scores: ScoreSettings,
    loading: Loading,
    out: Out = None,
    force: Force = False,
) -> None:
    """Measure pre-training loss and task accuracy.

    Every number has a 95 % confidence interval. --base adds the change from the base. With --out, the same
    command resumes after a stop.
    """
    from ..measures.evaluate import evaluate as run
    from ..reports.evaluation import measure_lines
    from .progress import progress_bar

    if out is None:
        refuse_given(
            {"force": force or None}, "is for a folder to write", "pass --out FOLDER, or leave it out"
        )
    lines: list[str] = []
    kept = nullcontext() if out is None else resumable("finished measures are kept", out)
    try:
        with kept, progress_bar() as progress:
            run(
                model,
                base=base,
                losses=losses,
                scores=scores,
                harness=harness,
                data_seed=data_seed,
                seed=seed,
                reported_half=reported_half,
                loading=loading,
                out=out,
                force=force,
                progress=progress,
                measured=lambda measure: lines.extend(measure_lines(measure)),
            )
    finally:
        say(lines)  # what was measured is told, also where something after it failed
    if out is not None:
        say([f"written to {out}"], whole=True)
