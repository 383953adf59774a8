"""``intruders prepare``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..audits.audit_settings import Compute
from ..checkpoints.stored.selection import Selection
from . import options, setting_options
from .command import examples
from .output import note, say


@examples(
    ("Decompose a base ahead of many audits", "intruders prepare smollm2-135m"),
    (
        "Keep it where a team shares it",
        "intruders prepare smollm2-135m --out s3://team/bases",
    ),
)
@setting_options.of(Selection, "selection")
@setting_options.of(Compute, "compute", only=["device"])
def prepare(
    base: options.BaseAlone,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER|URL",
            help="Folder or URL of the base cache; pass it to audits as --cache. [default: the user's cache folder]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    selection: Selection,
    compute: Compute,
    ray: options.Ray = None,
    cpus: options.Cpus = 1,
    gpus: options.Gpus = 0,
) -> None:
    """Decompose a base ahead of many audits.

    Audits of adapters of this base then take a fraction of their time. Resumes where an earlier call ended.
    """
    from ..audits.prepare_base import Preparation
    from ..audits.prepare_base import prepare as prepare_base
    from .progress import progress_bar

    preparation = Preparation.of(base, selection)
    expected = preparation.expected_seconds(compute.torch_device())
    note(
        f"{len(preparation.matrices):,} matrices, {preparation.bytes / 2**30:,.2f} GiB, "
        f"about {_in_words(expected)} if none is decomposed yet"
    )
    with progress_bar() as progress:
        result = prepare_base(
            base,
            out=out,
            **vars(selection),
            device=compute.device,
            ray=options.chosen_ray(ray, cpus, gpus),
            cpus=cpus,
            gpus=gpus,
            progress=progress,
        )
    done = f"{result.decomposed:,} of them now in {_in_words(result.seconds)}"
    say([f"{result.folder}: {result.matrices:,} matrices are decomposed, {done}"], whole=True)


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
