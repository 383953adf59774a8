"""Arguments and options that several commands share, and what their values mean.

Help texts say the value, its unit, the choices and the default; typer adds a default that is a literal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# Groups of options in the help.
INTRUDERS = "Intruders"
COMPUTATION = "Computation"
OUTPUT = "Output"
MEASURES = "Measures"
DATA_FILES = "Data files"
RUN = "Run"
METHOD = "Method"
TRAINING = "Training"
STOPPING = "Accuracy and stopping"

Base = Annotated[
    str,
    Argument(
        metavar="BASE",
        help="Model before fine-tuning: a folder, a file, a Hub id, smollm2-135m or minilm-l6. "
        "Omit it if TUNED is an adapter that names its base.",
    ),
]
Tuned = Annotated[
    str | None,
    Argument(
        metavar="TUNED",
        help="Model after fine-tuning, or its adapter: as BASE, or a sum such as A@0.7+B@0.3.",
        show_default=False,
    ),
]

# Which vectors are examined, and which of them are intruders.

K = Annotated[
    int,
    Option(
        metavar="N",
        help="Number of top singular vectors to examine per matrix, 1 or more.",
        rich_help_panel=INTRUDERS,
    ),
]
Epsilon = Annotated[
    float,
    Option(
        metavar="COSINE",
        help="Threshold on the max cosine, above 0 and at most 1: a vector below it is an intruder.",
        rich_help_panel=INTRUDERS,
    ),
]
Include = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Examine only tensors whose name matches this shell pattern; repeatable. [default: all]",
        rich_help_panel=INTRUDERS,
    ),
]
Exclude = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Skip tensors whose name matches this shell pattern; repeatable. [default: none]",
        rich_help_panel=INTRUDERS,
    ),
]
IncludeEmbeddings = Annotated[
    bool,
    Option(
        "--include-embeddings",
        help="Examine embeddings and output heads too.",
        rich_help_panel=INTRUDERS,
    ),
]

# Where and how it is computed.

Device = Annotated[
    str,
    Option(
        metavar="DEVICE",
        help="Device of the decompositions: auto, cpu or cuda. auto uses CUDA if available.",
        rich_help_panel=COMPUTATION,
    ),
]
CacheFolder = Annotated[
    Path | None,
    Option(
        "--cache",
        metavar="FOLDER",
        help="Folder of the base cache. [default: the user's cache folder]",
        rich_help_panel=COMPUTATION,
    ),
]
NoCache = Annotated[
    bool,
    Option("--no-cache", help="Do not read or write the base cache.", rich_help_panel=COMPUTATION),
]
JsonOrStdout = Annotated[
    str | None,
    Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON to this file; - prints it, and nothing else, to standard output. "
        "[default: not written]",
        rich_help_panel=OUTPUT,
    ),
]

# What is measured of a model.

LossOn = Annotated[
    list[str] | None,
    Option(
        metavar="CORPUS",
        help="Text for the pre-training loss: pydoc, a text or data file, a folder, a Hub corpus such as c4, "
        "or a mixture A@0.7+B@0.3; repeatable. [default: none]",
        rich_help_panel=MEASURES,
    ),
]
Task = Annotated[
    list[str] | None,
    Option(
        metavar="TASK",
        help="Task to score: word-problems, pydoc-topics, a Hub task such as sst2, or a data file; repeatable. "
        "[default: none]",
        rich_help_panel=MEASURES,
    ),
]
Split = Annotated[
    str | None,
    Option(
        metavar="SPLIT",
        help="Split to score: validation or test. [default: test if it has rows]",
        rich_help_panel=MEASURES,
    ),
]
MaxDocuments = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Number of documents per corpus, sampled with --seed. [default: all; 200 of a Hub corpus]",
        rich_help_panel=MEASURES,
    ),
]
MaxExamples = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Number of examples per task, from the first. [default: all]",
        rich_help_panel=MEASURES,
    ),
]
Window = Annotated[
    int | None,
    Option(
        metavar="TOKENS",
        help="Context window in tokens. [default: 1024, or the model's context if smaller]",
        rich_help_panel=MEASURES,
    ),
]
Stride = Annotated[
    int | None,
    Option(
        metavar="TOKENS",
        help="Number of tokens by which the window moves. [default: half the window]",
        rich_help_panel=MEASURES,
    ),
]
Estimate = Annotated[
    bool,
    Option(
        "--estimate",
        help="Masked models: mask a random 15 % of the tokens in one pass. This is faster but measures a "
        "different quantity.",
        rich_help_panel=MEASURES,
    ),
]
DataSeed = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Seed of generated tasks and of held-out rows. [default: that of the run, or 0]",
        rich_help_panel=MEASURES,
    ),
]

# Which columns of a data file hold what.

Text = Annotated[
    str | None,
    Option(
        metavar="COLUMN",
        help="Column of the text; two comma-separated columns for a pair. [default: none]",
        rich_help_panel=DATA_FILES,
    ),
]
Label = Annotated[
    str | None,
    Option(metavar="COLUMN", help="Column of the label. [default: none]", rich_help_panel=DATA_FILES),
]
Prompt = Annotated[
    str | None,
    Option(metavar="COLUMN", help="Column of the prompt. [default: none]", rich_help_panel=DATA_FILES),
]
Completion = Annotated[
    str | None,
    Option(metavar="COLUMN", help="Column of the completion. [default: none]", rich_help_panel=DATA_FILES),
]
Score = Annotated[
    str | None,
    Option(
        metavar="RULE",
        help="How to score completions: exact, final-number or none. [default: exact]",
        rich_help_panel=DATA_FILES,
    ),
]
ValidationFile = Annotated[
    str | None,
    Option(
        metavar="FILE",
        help="Data file of the validation split. [default: a tenth of the data file, held out]",
        rich_help_panel=DATA_FILES,
    ),
]
TestFile = Annotated[
    str | None,
    Option(metavar="FILE", help="Data file of the test split. [default: none]", rich_help_panel=DATA_FILES),
]
NoHeader = Annotated[
    bool | None,
    Option(
        "--no-header",
        help="The data file has no header; its columns are 0, 1, 2, and so on.",
        rich_help_panel=DATA_FILES,
    ),
]

# Settings of a fine-tuning run. None stands for "not given": the YAML file's value, or else the default, applies.

Config = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="YAML file of settings; options given here override it. [default: none]",
        rich_help_panel=RUN,
    ),
]
RunBase = Annotated[
    str | None,
    Option(
        "--base",
        metavar="MODEL",
        help="Model to fine-tune: a folder, a Hub id, smollm2-135m or minilm-l6. "
        "[required, here or in --config]",
        rich_help_panel=RUN,
    ),
]
Method = Annotated[
    str | None,
    Option(
        metavar="METHOD",
        help="Method: full, lora, rslora, dora, pissa, olora, lora-fa, b-only or lora+. [default: lora]",
        rich_help_panel=METHOD,
    ),
]
Rank = Annotated[
    int | None,
    Option("--rank", "--r", metavar="N", help="Rank of the adapter. [default: 8]", rich_help_panel=METHOD),
]
Alpha = Annotated[
    str | None,
    Option(
        "--alpha",
        "--lora-alpha",
        metavar="ALPHA",
        help="LoRA alpha: a number, or a multiple of the rank such as 2r. [default: 2r]",
        rich_help_panel=METHOD,
    ),
]
Dropout = Annotated[
    float | None,
    Option(
        "--dropout",
        "--lora-dropout",
        metavar="P",
        help="Dropout probability of the adapter, 0 or more and below 1. [default: 0.0]",
        rich_help_panel=METHOD,
    ),
]
LearningRate = Annotated[
    float | None,
    Option(
        "--lr",
        "--learning-rate",
        metavar="LR",
        help="Learning rate at its peak. [default: 0.0001]",
        rich_help_panel=TRAINING,
    ),
]
Steps = Annotated[
    int | None,
    Option(
        "--steps",
        "--max-steps",
        metavar="N",
        help="Number of optimizer steps. [required unless --epochs is given]",
        rich_help_panel=TRAINING,
    ),
]
Epochs = Annotated[
    float | None,
    Option(
        "--epochs",
        "--num-train-epochs",
        metavar="N",
        help="Number of passes over the training rows. [required unless --steps is given]",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    Option(
        "--batch-size",
        "--per-device-train-batch-size",
        metavar="N",
        help="Number of rows per batch and device. [default: 8]",
        rich_help_panel=TRAINING,
    ),
]
WeightDecay = Annotated[
    float | None,
    Option(metavar="W", help="Weight decay of AdamW, 0 or more. [default: 0.0]", rich_help_panel=TRAINING),
]
WarmupSteps = Annotated[
    float | None,
    Option(
        metavar="N",
        help="Warm-up in steps; below 1, a fraction of all steps. [default: 0.0]",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    str | None,
    Option(
        metavar="PRECISION",
        help="Precision of autocast: auto, fp32, bf16 or fp16. [default: auto]",
        rich_help_panel=TRAINING,
    ),
]
RunSeed = Annotated[
    int | None,
    Option(
        "--seed",
        metavar="N",
        help="Seed of the initial weights and of the row order. [default: 0]",
        rich_help_panel=TRAINING,
    ),
]
MaxLength = Annotated[
    int | None,
    Option(
        metavar="TOKENS",
        help="Longest row in tokens, 2 or more. [default: the model's context]",
        rich_help_panel=TRAINING,
    ),
]
MaxTrainSamples = Annotated[
    int | None,
    Option(metavar="N", help="Number of training rows to use. [default: all]", rich_help_panel=TRAINING),
]
MaxEvalSamples = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Number of rows of the validation split to score. [default: 200]",
        rich_help_panel=STOPPING,
    ),
]
Match = Annotated[
    str | None,
    Option(
        metavar="accuracy=A",
        help="Stop when the validation accuracy reaches this value: accuracy=0.90. [default: not stopped]",
        rich_help_panel=STOPPING,
    ),
]
EvalSteps = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Number of steps between two measurements for --match. [default: 50]",
        rich_help_panel=STOPPING,
    ),
]


def both_sides(base: str, tuned: str | None) -> tuple[str | None, str]:
    """Return base and tuned model; a single argument is an adapter that names its base."""
    return (None, base) if tuned is None else (base, tuned)


def chosen_cache(folder: Path | None, no_cache: bool) -> Path | bool:
    """Return the base cache as :func:`intruders.audit` takes it."""
    return False if no_cache else folder or True
