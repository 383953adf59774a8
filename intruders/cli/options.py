"""Arguments and options that several commands share, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Base = Annotated[
    str,
    Argument(
        help="The model before fine-tuning: a folder, a file, a hub id, or smollm2-135m or minilm-l6. "
        "May be left out before an adapter that names its base."
    ),
]
Tuned = Annotated[str | None, Argument(help="The model after it, or its adapter.")]

K = Annotated[int, Option(help="Leading singular vectors examined in each matrix.")]
Epsilon = Annotated[float, Option(help="Cosine below which a vector resembles no other.")]
Include = Annotated[list[str] | None, Option(help="Only tensors that match this pattern.")]
Exclude = Annotated[list[str] | None, Option(help="No tensors that match this pattern.")]
IncludeEmbeddings = Annotated[bool, Option("--include-embeddings", help="Also embeddings and output heads.")]
Device = Annotated[str, Option(help="auto, cpu or cuda.")]
CacheFolder = Annotated[
    Path | None,
    Option("--cache", help="Folder for what is learnt of the base; the user's cache folder if not given."),
]
NoCache = Annotated[bool, Option("--no-cache", help="Neither read nor keep anything of the base.")]
JsonOrStdout = Annotated[
    str | None,
    Option("--json", help="Write the result as JSON; - for standard output, and nothing else there."),
]

LossOn = Annotated[
    list[str] | None, Option(help="pydoc, a text or data file, a corpus of the hub, or A@0.7+B@0.3.")
]
Task = Annotated[list[str] | None, Option(help="As in intruders finetune.")]
Split = Annotated[str | None, Option(help="validation or test; test if there is one.")]
Text = Annotated[str | None, Option(help="Column of the text, or two with a comma between.")]
Label = Annotated[str | None, Option(help="Column of the label.")]
Prompt = Annotated[str | None, Option(help="Column of the prompt.")]
Completion = Annotated[str | None, Option(help="Column of the completion.")]
MaxDocuments = Annotated[int | None, Option(help="A sample of so many documents, drawn by seed.")]
MaxExamples = Annotated[int | None, Option(help="The first so many examples of each task.")]
DataSeed = Annotated[int | None, Option(help="Of the tasks' rows; the run's own if not given.")]
Window = Annotated[int | None, Option(help="Tokens; 1024, or the model's context if less.")]
Stride = Annotated[int | None, Option(help="Tokens the window moves by; half of it if not given.")]
Estimate = Annotated[
    bool, Option("--estimate", help="Masked models: the cheap 15 % estimate, not the pseudo-loss.")
]


def both_sides(base: str, tuned: str | None) -> tuple[str | None, str]:
    """Base and tuned model; a single one is an adapter that names its base."""
    return (None, base) if tuned is None else (base, tuned)


def chosen_cache(folder: Path | None, no_cache: bool) -> Path | bool:
    """Where to keep what is learnt of the base: as :func:`intruders.audit` takes it."""
    return False if no_cache else folder or True
