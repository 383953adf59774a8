"""``intruders evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from . import options
from .from_verb import argument, command, of_settings, option
from .output import Outputs, refuse_given, say


@command(
    argument(
        "model",
        str,
        "MODEL",
        "A folder of a run, a model or an adapter, a Hub id, smollm2-135m or minilm-l6.",
    ),
    option(
        "base",
        str | None,
        "Model before fine-tuning, as MODEL; adds its loss and the change from it. [default: none]",
        metavar="MODEL",
        panel=options.MEASURES,
    ),
    of_settings("losses", LossSettings),
    options.DATA_SEED,
    options.seed_of("document samples, of masks and of the bootstrap"),
    option(
        "reported_half",
        bool,
        "Measure only the half of documents and examples that heal, scale and remedies report on, at the same "
        "--max-documents, --max-examples, --seed and --data-seed.",
        False,
        panel=options.MEASURES,
        advanced=True,
    ),
    of_settings("harness", HarnessSettings),
    of_settings("scores", ScoreSettings),
    of_settings("loading", Loading),
    options.folder("out", "Folder for the result as JSON and Parquet. [default: not written]"),
    option("force", bool, "Replace the evaluation in the folder of --out.", False, panel=options.OUTPUT),
)
def evaluate(*, model: str, out: Path | None, force: bool, **asked: Any) -> None:
    """Measure pre-training loss and task accuracy.

    Every number has a 95 % confidence interval. --base adds the change from the base. With --out, the same
    command resumes after a stop.

    Examples:
      # Measure the rise of the loss on 20 documents
      intruders evaluate my-adapter --base smollm2-135m --loss-on pydoc --max-documents 20
      # Score a run on 100 examples, and save the result
      intruders evaluate runs/rank1 --task word-problems --max-examples 100 --out evaluations/rank1
    """
    from ..measures.evaluate import evaluate as run
    from ..reports.evaluation import measure_lines

    if out is None:
        refuse_given(
            {"force": force or None}, "is for a folder to write", "pass --out FOLDER, or leave it out"
        )
    lines: list[str] = []
    try:
        with Outputs().work("finished measures are kept", out) as progress:
            run(
                model,
                **asked,
                out=out,
                force=force,
                progress=progress,
                measured=lambda measure: lines.extend(measure_lines(measure)),
            )
    finally:
        say(lines)  # what was measured is told, also where something after it failed
    if out is not None:
        say([f"written to {out}"], whole=True)
