"""Arguments and options that several commands share, and what their values mean.

Help texts say the value, its unit, the choices and the default; typer adds a default that is a literal.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..audits.audit_settings import Compute
from ..models.loading_settings import Loading
from .completion import demo_model
from .output import refuse_given

# Groups of options in the help; those of settings are named by their fields.
INTRUDERS = "Intruders"
COMPUTATION = "Computation"
OUTPUT = "Output"
MEASURES = "Measures"
RUN = "Run"

# Of commands that run the models as well; those that only audit have the help of the field.
DEVICE_OF_BOTH = (
    "Device of the models and of the decompositions: auto, cpu or cuda. auto uses CUDA if available, and for "
    "decompositions only if it is covered by the proofs too."
)

MODEL_IS = "a folder, a file, a Hub id (also as ID@REVISION), smollm2-135m or minilm-l6"

Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help=f"Model before fine-tuning: {MODEL_IS}. Omit it if TUNED is an adapter that names its base.",
        autocompletion=demo_model,
    ),
]
BaseAlone = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help=f"Base model: {MODEL_IS}.",
        autocompletion=demo_model,
    ),
]
BaseUnlessDemo = Annotated[
    str | None,
    typer.Argument(
        metavar="BASE",
        help=f"Model before fine-tuning: {MODEL_IS}. "
        "Omit it if TUNED is an adapter that names its base. [required without --demo]",
        show_default=False,
        autocompletion=demo_model,
    ),
]
Tuned = Annotated[
    str | None,
    typer.Argument(
        metavar="TUNED",
        help="Model after fine-tuning, or its adapter: as BASE, or a sum such as A@0.7+B@0.3.",
        show_default=False,
        autocompletion=demo_model,
    ),
]

CacheFolder = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="FOLDER|URL",
        help="Folder or URL of the base cache. [default: the user's cache folder]",
        rich_help_panel=COMPUTATION,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not read or write the base cache.", rich_help_panel=COMPUTATION),
]
JsonOrStdout = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON to this file; - prints it, and nothing else, to standard output. "
        "[default: not written]",
        rich_help_panel=OUTPUT,
    ),
]

Sarif = Annotated[
    Path | None,
    typer.Option(
        "--sarif",
        metavar="FILE",
        help="Write what fails as SARIF 2.1.0 to this file, for GitHub's code scanning. [default: not written]",
        rich_help_panel=OUTPUT,
    ),
]
SavedAudit = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Saved audit of these two models, to use instead of a new one. [default: a new audit]",
        rich_help_panel=INTRUDERS,
    ),
]
DataSeed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Seed of generated tasks and of held-out rows. [default: that of the run, or 0]",
        rich_help_panel=MEASURES,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Run on the Ray cluster at this address; without an address, on a Ray of this machine. "
        "[default: without Ray]",
        metavar="[ADDRESS]",
        rich_help_panel=COMPUTATION,
    ),
]
Cpus = Annotated[
    float,
    typer.Option(
        metavar="N", help="Number of processors of each worker on Ray.", rich_help_panel=COMPUTATION
    ),
]
Gpus = Annotated[
    float,
    typer.Option(metavar="N", help="Number of GPUs of each worker on Ray.", rich_help_panel=COMPUTATION),
]
Form = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="FORM",
        help="What to write: adapter, checkpoint or auto. auto writes what TUNED is.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace --out if it is a model or adapter.", rich_help_panel=OUTPUT),
]
Html = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the report as one HTML file. [default: not written]",
        rich_help_panel=OUTPUT,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for finished measurements. Run the same command again to resume. [default: nothing is kept]",
        rich_help_panel=OUTPUT,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="YAML file of settings; options given here override it. [default: none]",
        rich_help_panel=RUN,
    ),
]


def seed_of(what: str) -> Any:
    """Return the option of a seed: a whole number, of what is said."""
    return typer.Option(metavar="N", help=f"Seed of {what}.", rich_help_panel=MEASURES)


def parquet_of(what: str) -> Any:
    """Return the option of a Parquet file: of what it has one row."""
    return typer.Option(
        metavar="FILE",
        help=f"Write the result as Parquet to this file, one row per {what}. [default: not written]",
        rich_help_panel=OUTPUT,
    )


def fail_above_of(who: str) -> Any:
    """Return the option of a limit: who has the intruders, with the verb."""
    return typer.Option(
        metavar="N",
        help=f"Exit with status 1 if {who} more intruders than this number. [default: no limit]",
        rich_help_panel=OUTPUT,
    )


def verbose_of(what: str) -> Any:
    """Return the switch that lists every one of what is otherwise summarized."""
    return typer.Option("--verbose", "-v", help=f"List every {what}.", rich_help_panel=OUTPUT)


def chosen_ray(address: str | None, cpus: float = 1, gpus: float = 0) -> str | bool:
    """Return the Ray cluster as the functions take it: none, one of this machine, or that at an address.

    Raises:
      SettingError: processors are asked for, and no cluster to give them.
    """
    if address is None:
        given = {"cpus": cpus if cpus != 1 else None, "gpus": gpus or None}
        refuse_given(given, "is for workers on Ray", "pass --ray too, or leave it out")
    return False if address is None else (address or True)


def with_cache_and_device(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the base cache to a command, and complete what it receives.

    Its ``compute`` then has the base cache, and its ``loading``, if it takes one, the device of ``compute``.
    """

    @functools.wraps(command)
    def with_both(*, compute: Compute, cache: str | None, no_cache: bool, **values: Any) -> None:
        if "loading" in values:
            values["loading"] = replace(values["loading"], device=compute.device)
        command(compute=replace(compute, cache=chosen_cache(cache, no_cache)), **values)

    parameters: list[inspect.Parameter] = []
    given = inspect.signature(command, eval_str=True).parameters
    for parameter in given.values():
        parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        if parameter.name == ("loading" if "loading" in given else "compute"):
            parameters += [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
                )
                for name, default, annotation in (("cache", None, CacheFolder), ("no_cache", False, NoCache))
            ]
    with_both.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_both


def typed(loading: Loading) -> dict[str, Any]:
    """Return the options of loading that were typed: the device is that of the audit too."""
    return replace(loading, device=Loading().device).changed()


def chosen_cache(folder: str | None, no_cache: bool) -> str | bool:
    """Return the base cache as :func:`intruders.audit` takes it."""
    return False if no_cache else folder or True
