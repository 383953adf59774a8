"""What is measured of a model: on which text, on which tasks, under which interventions."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.columns import Columns
from ..settings import Settings, setting

# Of the controls the one that scales the complete update by one factor, and is compared at equal task loss.
INTERPOLATE = "interpolate"
# The one that needs text which the base reads.
SHRINK_OUTPUT = "shrink-output"
# Controls that change a model in the place of its intruders, and need the weights alone.
CONTROLS = ("shrink", "random", "neighbours", "update", "resized", "complement")
# Of a matrix's intruders: all, or the one with the largest singular value.
WHICH = ("all", "top")
WHICH_HELP = "Intruders to scale: all, or top for the strongest one of each matrix, by singular value, as in the paper."


@dataclass(frozen=True)
class LossSettings(Settings):
    """The text that losses are measured on, and how.

    Example:
      ``intruders.LossSettings(loss_on=("pydoc",), max_documents=100)``
    """

    loss_on: tuple[str, ...] = setting(
        (),
        "Text for the pre-training loss: pydoc, a text or data file, a folder, a Hub corpus such as c4, or a mixture "
        "A@0.7+B@0.3; repeatable.",
        item="corpus",
        metavar="CORPUS",
        panel="Measures",
        unless_given="default: none",
    )
    max_documents: int | None = setting(
        None,
        "Number of documents per corpus, sampled with --seed.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all; 200 of a Hub corpus",
    )
    max_tokens: int | None = setting(
        None,
        "Number of tokens of each document, from its start.",
        least=2,
        new_in="0.2",
        metavar="TOKENS",
        panel="Measures",
        unless_given="default: all",
    )
    window: int | None = setting(
        None,
        "Context window in tokens.",
        least=1,
        metavar="TOKENS",
        panel="Measures",
        unless_given="default: 1024, or the model's context if smaller",
    )
    stride: int | None = setting(
        None,
        "Number of tokens by which the window moves.",
        least=1,
        new_in="0.2",
        metavar="TOKENS",
        panel="Measures",
        unless_given="default: half the window",
    )
    estimate: bool = setting(
        False,
        "Masked models: mask a random 15 % of the tokens in one pass. This is faster but measures a different "
        "quantity.",
        panel="Measures",
    )
    batch_size: int | None = setting(
        None,
        "Number of windows of text in one pass; no loss depends on it.",
        least=1,
        new_in="0.2",
        metavar="N",
        panel="Measures",
        unless_given="default: as many as have 2048 tokens; 32 of a masked model",
    )


@dataclass(frozen=True)
class ScoreSettings(Columns):
    """Which tasks are scored, from which columns, on how many examples of which split.

    Example:
      ``intruders.ScoreSettings(tasks=("sst2",), max_examples=200)``
    """

    tasks: tuple[str, ...] = setting(
        (),
        "Task to score: word-problems, pydoc-topics, a Hub task such as sst2, or a data file; repeatable.",
        item="task",
        metavar="TASK",
        panel="Measures",
        unless_given="default: none",
        option="task",
    )
    split: str | None = setting(
        None,
        "Split to score: validation or test.",
        metavar="SPLIT",
        panel="Measures",
        unless_given="default: test if it has rows",
    )
    max_examples: int | None = setting(
        None,
        "Number of examples per task, from the first.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all",
    )


@dataclass(frozen=True)
class HarnessSettings(Settings):
    """Which tasks of lm-evaluation-harness are scored.

    Example:
      ``intruders.HarnessSettings(lm_eval=("arc_easy",))``
    """

    lm_eval: tuple[str, ...] = setting(
        (),
        "Comma-separated tasks of lm-evaluation-harness.",
        item="task",
        by_commas=True,
        metavar="TASKS",
        panel="Measures",
        unless_given="default: none",
    )
    lm_eval_include: str | None = setting(
        None,
        "Folder of your own lm-evaluation-harness tasks.",
        metavar="FOLDER",
        panel="Measures",
        unless_given="default: none",
    )


@dataclass(frozen=True)
class SweepSettings(Settings):
    """Which interventions are measured, and on how much of the evaluation's data.

    Example:
      ``intruders.SweepSettings(scales=(0, 0.5), controls=("shrink", "interpolate"))``
    """

    scales: tuple[float, ...] = setting(
        (0.0, 0.5),
        "Comma-separated intruder scales: 0 removes the intruders, 1 changes nothing.",
        item="scale",
        least=0,
        below=float("inf"),
        expected="a number, the share of the intruders to keep: 0 removes them, 1 changes nothing",
        may_be_empty=False,
        by_commas=True,
        metavar="NUMBERS",
        panel="Intervention",
    )
    controls: tuple[str, ...] = setting(
        ("shrink", "random"),
        "Comma-separated controls: shrink, shrink-output, random, neighbours, update, resized, complement and "
        "interpolate.",
        item="control",
        choices=(*CONTROLS, SHRINK_OUTPUT, INTERPOLATE, "intruders"),
        by_commas=True,
        metavar="NAMES",
        panel="Intervention",
    )
    which: str = setting("all", WHICH_HELP, choices=WHICH, new_in="0.2", metavar="NAME", panel="Intervention")
    max_documents: int | None = setting(
        None,
        "Number of documents per corpus; the evaluation's, if None.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all; 200 of a Hub corpus",
    )
    max_examples: int | None = setting(
        None,
        "Number of examples per task; the evaluation's, if None.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all",
    )


NO_LOSSES = LossSettings()
NO_SCORES = ScoreSettings()
NO_HARNESS = HarnessSettings()
# The paper's Tables 3 and 4: the strongest intruder of each matrix, and the vector next to it as the control.
AS_IN_THE_PAPER = SweepSettings(scales=(0.1, 0.3, 0.5, 0.7, 0.9), controls=("neighbours",), which="top")
IN_QUARTERS = SweepSettings(scales=(0.0, 0.25, 0.5, 0.75, 1.0))
