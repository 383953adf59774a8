"""``intruders intervene``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .command import examples

INTERVENTION = "Intervention"


@examples(
    (
        "Measure the pre-training loss with scaled intruders",
        "intruders intervene smollm2-135m my-adapter --loss-on pydoc --max-documents 40",
    ),
    (
        "Compare two intruder scales with one control, on a task",
        "intruders intervene smollm2-135m my-adapter --scales 0.3,0.6 --controls shrink --task word-problems",
    ),
)
def intervene(
    base: options.Base,
    tuned: options.Tuned = None,
    scales: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            help="Comma-separated intruder scales: 0 removes the intruders, 1 changes nothing.",
            rich_help_panel=INTERVENTION,
        ),
    ] = "0,0.25,0.5,0.75,1",
    controls: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated controls: shrink, random, neighbours and update.",
            rich_help_panel=INTERVENTION,
        ),
    ] = "shrink,random",
    loss_on: options.LossOn = None,
    task: options.Task = None,
    split: options.Split = None,
    max_documents: options.MaxDocuments = None,
    max_examples: options.MaxExamples = None,
    window: options.Window = None,
    stride: options.Stride = None,
    estimate: options.Estimate = False,
    data_seed: options.DataSeed = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of the control random, of document samples and of the bootstrap.",
            rich_help_panel=options.MEASURES,
        ),
    ] = 0,
    text: options.Text = None,
    label: options.Label = None,
    prompt: options.Prompt = None,
    completion: options.Completion = None,
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    device: options.Device = "auto",
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the result as JSON to this file. [default: not written]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Measure the effect of scaling intruders, with controls.

    Changes weights in memory only and writes no model.
    """
    from json import dumps

    from ..data.columns import Columns
    from ..errors import SettingError
    from ..evaluation.intervene import intervene as run
    from ..evaluation.sweep_words import document, lines
    from ..system.files import check_writable, write_atomically
    from .progress import stage_progress

    if json is not None:
        check_writable(json)
    try:
        numbers = [float(part) for part in scales.split(",")]
    except ValueError:
        raise SettingError(
            f"scales is {scales!r}; expected comma-separated numbers; pass, for example, --scales 0,0.5,1"
        ) from None
    columns = Columns(
        text=tuple(text.split(",")) if text else (), label=label, prompt=prompt, completion=completion
    )
    with stage_progress() as progress:
        found = run(
            *options.both_sides(base, tuned),
            scales=numbers,
            controls=[part for part in controls.split(",") if part],
            loss_on=loss_on or (),
            tasks=task or (),
            columns=columns,
            split=split,
            max_documents=max_documents,
            max_examples=max_examples,
            window=window,
            stride=stride,
            estimate=estimate,
            k=k,
            epsilon=epsilon,
            include=include or (),
            exclude=exclude or (),
            data_seed=data_seed,
            seed=seed,
            device=device,
            cache=options.chosen_cache(cache, no_cache),
            progress=progress,
        )
    for line in lines(found):
        typer.echo(line)
    if json is not None:
        write_atomically(json, (dumps(document(found), ensure_ascii=False) + "\n").encode())
