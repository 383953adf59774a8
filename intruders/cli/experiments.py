"""``intruders evaluate``, ``attribute``, ``intervene``, ``remedies`` and ``heal``: models measured, and changed."""

from pathlib import Path
from typing import Any

import typer

from ..audits.audit_settings import FINDING_INTRUDERS
from ..data.columns import Columns
from ..errors import SettingError
from ..experiments.experiment_settings import (
    AS_IN_THE_PAPER,
    IN_QUARTERS,
    AttributionSettings,
    ComparisonSettings,
    HealSettings,
    SweepSettings,
)
from ..measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from ..system.this_process import ExitStatus
from . import options
from .from_verb import REQUIRED, Taken, argument, command, flag, of_settings, option
from .output import Outputs, check_nats, note, refuse_given, report_if_possible, say


def _loss_on(what_it_does: str, unless_given: str = "required") -> Taken:
    text = "Text such as the base was trained on: pydoc, a text or data file, a folder or a Hub corpus such as c4."
    reworded = {"loss_on": f"{text} {what_it_does}; repeatable. [{unless_given}]"}
    return of_settings({"loss_on": "loss_on"}, LossSettings, reworded=reworded)


def _task(text: str, needed: str = "") -> Taken:
    return of_settings({"tasks": "task"}, ScoreSettings, reworded={"tasks": f"{text}; repeatable.{needed}"})


@command(
    argument("model", str, "A folder of a run, a model or an adapter, a Hub id, smollm2-135m or minilm-l6."),
    option(
        "base",
        str | None,
        "Model before fine-tuning, as MODEL; adds its loss and the change from it. [default: none]",
        metavar="MODEL",
        panel=options.MEASURES,
    ),
    option(
        "also",
        list[str] | None,
        "What was made of MODEL, such as its merge; adds a table of what each adds to the loss of the one before; "
        "repeatable, in order. Needs --base and --loss-on. [default: none]",
        metavar="MODEL",
        panel=options.MEASURES,
    ),
    of_settings("losses", LossSettings),
    options.DATA_SEED,
    options.seed_of("document samples, of masks and of the bootstrap"),
    flag(
        "reported_half",
        "Measure only the half of documents and examples that heal, scale and remedies report on, at the same "
        "--max-documents, --max-examples, --seed and --data-seed.",
        panel=options.MEASURES,
        advanced=True,
    ),
    of_settings("harness", HarnessSettings),
    of_settings("scores", ScoreSettings),
    of_settings("loading", Loading),
    options.folder("out", "Folder for the result as JSON and Parquet. [default: not written]"),
    flag("force", "Replace the evaluation in the folder of --out.", panel=options.OUTPUT),
    option(
        "fail_above",
        float | None,
        "Exit with status 1 if the loss on a text rose by more nats per token: if all of the 95 % interval of its "
        "change lies above this. Needs --base and --loss-on. [default: no limit]",
        metavar="NATS",
        panel=options.OUTPUT,
    ),
)
def evaluate(
    *,
    model: str,
    also: list[str] | None,
    out: Path | None,
    force: bool,
    fail_above: float | None,
    **asked: Any,
) -> None:
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
    from ..reports.evaluation import measure_lines, step_lines

    check_nats("fail_above", fail_above)
    if fail_above is not None and (asked["base"] is None or not asked["losses"].loss_on):
        raise SettingError(
            f"fail_above is {fail_above:g}, and no change of a loss is measured; expected a base and a text; pass "
            "--base and --loss-on, or omit --fail-above"
        )
    if out is None:
        refuse_given(
            {"force": force or None}, "is for a folder to write", "pass --out FOLDER, or leave it out"
        )
    lines: list[str] = []
    try:
        with Outputs().work("finished measures are kept", out) as progress:
            result = run(
                model,
                **asked,
                also=also or (),
                out=out,
                force=force,
                progress=progress,
                measured=lambda measure: lines.extend(measure_lines(measure)),
            )
            lines += step_lines(result) if result.also else []
    finally:
        say(lines)  # what was measured is told, also where something after it failed
    if out is not None:
        say([f"written to {out}"], whole=True)
    changes = [(loss.name, loss.difference) for step in [result, *result.also] for loss in step.losses]
    above = dict.fromkeys(name for name, change in changes if change and change.low > (fail_above or 0.0))
    if fail_above is not None and above:
        allowed = f"more than the {fail_above:g} nats that --fail-above allows"
        note(f"the loss rose by {allowed} on {', '.join(above)}")
        raise typer.Exit(ExitStatus.FAILED)


@command(
    options.BASE,
    options.TUNED,
    _loss_on("The tables are sorted by the first"),
    _task(
        "Task that was learned, whose loss is split too: word-problems, a Hub task such as sst2, or a data file"
    ),
    of_settings("columns", Columns),
    of_settings("settings", AttributionSettings),
    options.DATA_SEED,
    options.seed_of("samples, masked tokens and the bootstrap"),
    options.audited(FINDING_INTRUDERS),
    options.running_models("dtype", "load_in"),
    options.KEEP,
    options.outputs(options.parquet_of("matrix and measure"), options.HTML, options.JSON),
)
def attribute(*, to: Outputs, keep: Path | None, **asked: Any) -> None:
    """Show which matrices made a model forget.

    Splits the rise of the loss into parts by matrix, layer and kind of module, which sum to the measured rise.

    Examples:
      # Show which matrices made a model forget
      intruders attribute smollm2-135m my-adapter --loss-on pydoc
      # Add what they do for the task, and save the parts
      intruders attribute smollm2-135m my-adapter --loss-on pydoc --task word-problems --parquet parts.parquet
    """
    from ..experiments.attribute import attribute as run
    from ..reports.attribute import print_attribution, render_attribution
    from ..system.files import write_atomically

    with to.work("finished parts are kept in {}", keep) as progress:
        result = run(**asked, keep=keep, progress=progress)
    if to.parquet is not None:
        write_atomically(to.parquet, result.to_pandas().to_parquet(index=False))
    to.put(result, print_attribution, render_attribution)


@command(
    options.BASE,
    options.TUNED,
    flag(
        "paper",
        "Measure the paper's intervention: --which top --controls neighbours --scales 0.1,0.3,0.5,0.7,0.9, where you "
        "give no others.",
        panel="Intervention",
    ),
    of_settings("given", IN_QUARTERS, only=["scales", "controls", "which"], over_a_file=True),
    of_settings("losses", LossSettings),
    options.DATA_SEED,
    options.seed_of("the control random, of document samples and of the bootstrap"),
    of_settings("scores", ScoreSettings),
    options.audited(FINDING_INTRUDERS),
    options.running_models("dtype"),
    options.KEEP,
    options.outputs(options.JSON),
)
def intervene(*, to: Outputs, keep: Path | None, paper: bool, given: dict[str, Any], **asked: Any) -> None:
    """Measure the effect of scaling intruders, with controls.

    Changes weights in memory only and writes no model.

    Examples:
      # Measure the pre-training loss with scaled intruders
      intruders intervene smollm2-135m my-adapter --loss-on pydoc --max-documents 40
      # Compare two intruder scales with one control, on a task
      intruders intervene smollm2-135m my-adapter --scales 0.3,0.6 --controls shrink --task word-problems
    """
    from ..experiments.intervene import intervene as run
    from ..reports.intervene import sweep_lines

    sweep = SweepSettings.from_mapping((AS_IN_THE_PAPER if paper else IN_QUARTERS).values() | given)
    with to.work("finished measures are kept in {}", keep) as progress:
        result = run(**asked, sweep=sweep, keep=keep, progress=progress)
    to.put(result, lambda sweep, _: say(sweep_lines(sweep)))


@command(
    options.BASE,
    options.TUNED,
    of_settings("comparison", ComparisonSettings),
    of_settings(
        "losses",
        LossSettings,
        reworded={
            "loss_on": "Text to measure forgetting on: pydoc, a text or data file, a folder, a Hub corpus such as c4, "
            "or a mixture A@0.7+B@0.3; repeatable.",
            "max_documents": "Number of documents per corpus, sampled with --seed: half choose strengths, half are "
            "reported.",
        },
    ),
    of_settings(
        "scores",
        ScoreSettings,
        without=["split"],  # strengths are chosen on the validation split, and the test split is reported
        reworded={
            "tasks": "Task that the model was tuned for: word-problems, pydoc-topics, a Hub task such as sst2, or a "
            "data file; further ones are measured too.",
            "max_examples": "Number of examples per task and split, from the first.",
        },
    ),
    of_settings(
        "harness",
        HarnessSettings,
        reworded={
            "lm_eval": "Comma-separated tasks of lm-evaluation-harness, scored on --max-examples of each; they count "
            "among the four parts."
        },
    ),
    options.DATA_SEED,
    options.seed_of("halves, samples, random controls and of the bootstrap"),
    options.audited(FINDING_INTRUDERS),
    options.running_models("dtype"),
    options.folder(
        "out",
        "Folder for remedies.json, remedies.parquet, report.html, figures and finished evaluations. Run the same "
        "command again to resume. [default: nothing is written]",
    ),
    options.outputs(options.JSON),
)
def remedies(*, to: Outputs, out: Path | None, **asked: Any) -> None:
    """Compare remedies against forgetting on your model.

    Changes weights in memory only. Names the remedy to use and the command that writes it.

    Examples:
      # Find the remedy for your model, and resume if stopped
      intruders remedies smollm2-135m my-adapter --loss-on pydoc --task word-problems --out found
      # Compare two remedies only
      intruders remedies smollm2-135m my-adapter --loss-on pydoc --task word-problems --only lines,budget
    """
    from ..experiments.compare_remedies import compare_remedies
    from ..reports.remedies import print_comparison, write_remedies_report

    with to.work("finished evaluations are kept", out) as progress:
        result = compare_remedies(**asked, out=out, progress=progress)
    if out is not None:
        result.save(out)
        with report_if_possible():
            write_remedies_report(result, out)
    to.put(result, print_comparison)


@command(
    options.BASE,
    options.TUNED,
    _loss_on("It is learned on the first; further ones are reported", "default: self, which the base writes"),
    _task(
        "Task to keep: word-problems, a Hub task such as sst2, or a data file with --prompt and --completion; further "
        "ones are reported",
        " [required without --prompts]",
    ),
    options.file(
        "prompts",
        "Prompts alone, in the place of --task: one a line, or a data file with the column prompt. The tuned model's "
        "own greedy answers are what to keep. [default: none]",
        panel=options.MEASURES,
        advanced=False,
    ),
    of_settings("settings", HealSettings),
    options.DATA_SEED,
    options.seed_of("halves, samples, the order of learning and the bootstrap"),
    of_settings("columns", Columns),
    options.audited(FINDING_INTRUDERS),
    options.running_models("dtype", "load_in"),
    options.folder(
        "out",
        "Folder for the healed model and heal.json. Unfinished work is in FOLDER.unfinished; run the same command "
        "again to resume.",
        REQUIRED,
        Path,
    ),
    options.FORM,
    options.FORCE,
    options.outputs(options.HTML, options.JSON),
)
def heal(*, to: Outputs, out: Path, **asked: Any) -> None:
    """Give back what fine-tuning forgot, keep what it learned.

    Learns the update again, or one dose for every matrix, from a little text and some examples, and writes the model.

    Examples:
      # Give back what an adapter forgot, and keep its task
      intruders heal smollm2-135m my-adapter --task word-problems --out healed
      # Keep what your own examples show; report a second text
      intruders heal my-base my-adapter --task mine.jsonl --prompt question --completion answer --loss-on c4 \\
        --loss-on wikitext --out healed
    """
    from ..experiments.heal import heal as run
    from ..reports.heal import print_healing, render_healing

    with to.work("what was done is kept in {}", Path(f"{out}.unfinished")) as progress:
        healing = run(**asked, out=out, progress=progress, told=lambda line: note(f"note: {line}"))
    to.put(healing, print_healing, render_healing)
