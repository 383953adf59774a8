"""intruders evaluate: loss on text like that of pre-training, and task accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from . import options


def evaluate(
    model: Annotated[str, Argument(help="Run or model folder, adapter, hub id, smollm2-135m or minilm-l6.")],
    base: Annotated[str | None, Option(help="Model before fine-tuning; its loss is measured too.")] = None,
    loss_on: Annotated[
        list[str] | None, Option(help="pydoc, a text or data file, a corpus of the hub, or A@0.7+B@0.3.")
    ] = None,
    task: Annotated[list[str] | None, Option(help="As in intruders finetune.")] = None,
    out: Annotated[Path | None, Option(help="Folder for the result as JSON and Parquet.")] = None,
    split: Annotated[str | None, Option(help="validation or test; test if there is one.")] = None,
    text: Annotated[str | None, Option(help="Column of the text, or two with a comma between.")] = None,
    label: Annotated[str | None, Option(help="Column of the label.")] = None,
    prompt: Annotated[str | None, Option(help="Column of the prompt.")] = None,
    completion: Annotated[str | None, Option(help="Column of the completion.")] = None,
    score: Annotated[str | None, Option(help="Completions: exact or final-number.")] = None,
    validation_file: Annotated[str | None, Option()] = None,
    test_file: Annotated[str | None, Option()] = None,
    no_header: Annotated[bool, Option("--no-header", help="Columns are called 0, 1, ...")] = False,
    max_documents: Annotated[int | None, Option(help="A sample of so many documents, drawn by seed.")] = None,
    max_examples: Annotated[int | None, Option(help="The first so many examples of each task.")] = None,
    window: Annotated[int | None, Option(help="Tokens; 1024, or the model's context if less.")] = None,
    stride: Annotated[int | None, Option(help="Tokens the window moves by; half of it if not given.")] = None,
    estimate: Annotated[
        bool, Option("--estimate", help="Masked models: the cheap 15 % estimate, not the pseudo-loss.")
    ] = False,
    lm_eval: Annotated[
        str | None, Option(help="Tasks of lm-evaluation-harness, with commas between.")
    ] = None,
    lm_eval_include: Annotated[Path | None, Option(help="Folder of your own harness tasks.")] = None,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, Option()] = 0,
) -> None:
    """Measure a model: loss on text, its change against the base, task accuracy; all with 95 % intervals."""
    from ..training.quiet import hush_imports

    hush_imports()

    from ..evaluation.evaluate import evaluate as run
    from ..training.local_files import Columns

    columns = Columns(
        text=tuple(text.split(",")) if text else (),
        label=label,
        prompt=prompt,
        completion=completion,
        score=score,
        validation_file=validation_file,
        test_file=test_file,
        no_header=no_header,
    )
    found = run(
        model,
        base=base,
        loss_on=loss_on or (),
        tasks=task or (),
        columns=columns,
        split=split,
        max_documents=max_documents,
        max_examples=max_examples,
        window=window,
        stride=stride,
        estimate=estimate,
        lm_eval=tuple(lm_eval.split(",")) if lm_eval else (),
        lm_eval_include=lm_eval_include,
        data_seed=data_seed,
        seed=seed,
        out=out,
    )
    for line in found.lines():
        echo(line)
    if out is not None:
        echo(f"written to {out}")
