"""``intruders intervene``."""

from __future__ import annotations

from typing import Annotated

import typer


def intervene(
    base: Annotated[
        str,
        typer.Argument(
            help="The model before fine-tuning: a folder, a hub id, or smollm2-135m or minilm-l6. "
            "May be left out before an adapter that names its base."
        ),
    ],
    tuned: Annotated[str | None, typer.Argument(help="The model after it, or its adapter.")] = None,
    scales: Annotated[
        str, typer.Option(help="Shares of the intruders to keep, with commas between.")
    ] = "0,0.25,0.5,0.75,1",
    controls: Annotated[
        str, typer.Option(help="shrink, random, neighbours and update, with commas between.")
    ] = "shrink,random",
    loss_on: Annotated[
        list[str] | None,
        typer.Option(help="pydoc, a text or data file, a corpus of the hub, or A@0.7+B@0.3."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="As in intruders finetune.")] = None,
    split: Annotated[str | None, typer.Option(help="validation or test; test if there is one.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text, or two with a comma between.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Column of the prompt.")] = None,
    completion: Annotated[str | None, typer.Option(help="Column of the completion.")] = None,
    max_documents: Annotated[int | None, typer.Option(help="A sample of so many documents.")] = None,
    max_examples: Annotated[int | None, typer.Option(help="The first so many examples of each task.")] = None,
    window: Annotated[int | None, typer.Option(help="Tokens; 1024, or the model's context if less.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Masked models: the cheap 15 % estimate, not the pseudo-loss.")
    ] = False,
    k: Annotated[int, typer.Option(help="Leading singular vectors examined in each matrix.")] = 10,
    epsilon: Annotated[float, typer.Option(help="Cosine below which a vector resembles no other.")] = 0.5,
    include: Annotated[list[str] | None, typer.Option(help="Only tensors that match this pattern.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No tensors that match this pattern.")] = None,
    seed: Annotated[int, typer.Option(help="Of the control random, of samples, of the bootstrap.")] = 0,
    json: Annotated[str | None, typer.Option("--json", help="Write the result here as JSON.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for the decompositions.")] = "auto",
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
            base if tuned is not None else None,
            tuned if tuned is not None else base,
            scales=numbers,
            controls=[part for part in controls.split(",") if part],
            loss_on=loss_on or (),
            tasks=task or (),
            columns=columns,
            split=split,
            max_documents=max_documents,
            max_examples=max_examples,
            window=window,
            estimate=estimate,
            k=k,
            epsilon=epsilon,
            include=include or (),
            exclude=exclude or (),
            seed=seed,
            device=device,
            progress=progress,
        )
    for line in lines(found):
        typer.echo(line)
    if json is not None:
        write_atomically(json, (dumps(document(found), ensure_ascii=False) + "\n").encode())
