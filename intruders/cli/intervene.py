"""``intruders intervene``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def intervene(
    base: options.Base,
    tuned: options.Tuned = None,
    scales: Annotated[
        str, typer.Option(help="Shares of the intruders to keep, with commas between.")
    ] = "0,0.25,0.5,0.75,1",
    controls: Annotated[
        str, typer.Option(help="shrink, random, neighbours and update, with commas between.")
    ] = "shrink,random",
    loss_on: options.LossOn = None,
    task: options.Task = None,
    split: options.Split = None,
    text: options.Text = None,
    label: options.Label = None,
    prompt: options.Prompt = None,
    completion: options.Completion = None,
    max_documents: options.MaxDocuments = None,
    max_examples: options.MaxExamples = None,
    window: options.Window = None,
    stride: options.Stride = None,
    estimate: options.Estimate = False,
    k: options.K = 10,
    epsilon: options.Epsilon = 0.5,
    include: options.Include = None,
    exclude: options.Exclude = None,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, typer.Option(help="Of the control random, of samples, of the bootstrap.")] = 0,
    json: Annotated[str | None, typer.Option("--json", help="Write the result here as JSON.")] = None,
    device: options.Device = "auto",
    cache: options.CacheFolder = None,
    no_cache: options.NoCache = False,
) -> None:
    """Measure what scaling the intruders changes, and whether the controls do as well; no model is written."""
    from json import dumps

    from ..detection.files import check_writable, write_atomically
    from ..errors import SettingError
    from ..evaluation.intervention import intervene as run
    from ..evaluation.verdict import document, lines
    from ..training.local_files import Columns
    from .progress import stage_progress

    if json is not None:
        check_writable(json)
    try:
        numbers = [float(part) for part in scales.split(",")]
    except ValueError:
        raise SettingError(
            f"scales is {scales!r}; expected numbers with commas between, such as 0,0.5,1"
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
