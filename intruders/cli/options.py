"""Arguments and options that several commands share, and what their values mean.

Help texts say the value, its unit, the choices and the default; typer adds a default that is a literal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..audits.audit_settings import AuditSettings, Compute
from ..checkpoints.stored.locate import ALIASES
from ..errors import SettingError
from ..models.loading_settings import Loading
from ..settings import settings_of
from .from_verb import REQUIRED, Taken, all_of, argument, flag, of_settings, option
from .output import Outputs, refuse_given

# Groups of options in the help; those of settings are named by their fields.
INTRUDERS = "Intruders"
COMPUTATION = "Computation"
OUTPUT = "Output"
MEASURES = "Measures"
RUN = "Run"

MODEL_IS = "a folder, a file, a Hub id (also as ID@REVISION), smollm2-135m or minilm-l6"


def model(name: str, text: str, default: Any = REQUIRED, kind: Any = str) -> Taken:
    """Take a model by its place; the name of a demo model is completed once it is begun, and names of files before."""

    def complete(incomplete: str) -> list[str]:
        return [alias for alias in ALIASES if incomplete and alias.startswith(incomplete)]

    return argument(name, kind, text, default, autocompletion=complete)


def file(name: str, text: str, kind: Any = Path | None, panel: str | None = OUTPUT, **how: Any) -> Taken:
    return option(name, kind, text, metavar="FILE", panel=panel, **how)


def folder(
    name: str, text: str, default: Any = None, kind: Any = Path | None, panel: str | None = OUTPUT
) -> Taken:
    return option(name, kind, text, default, metavar="FOLDER", panel=panel)


_OF_BASE = f"Model before fine-tuning: {MODEL_IS}. Without TUNED, an adapter that names its base."
BASE = model("base", _OF_BASE)
BASE_UNLESS_DEMO = model("base", f"{_OF_BASE} [required without --demo]", None, str | None)
BASE_ALONE = model("base", f"Base model: {MODEL_IS}.")
TUNED = model(
    "tuned",
    "Model after fine-tuning, or its adapter: as BASE, or a sum such as A@0.7+B@0.3.",
    None,
    str | None,
)

CACHE = option(
    "cache",
    str | None,
    "Folder or URL of the base cache. [default: the user's cache folder]",
    metavar="FOLDER|URL",
    panel=COMPUTATION,
)
NO_CACHE = flag("no_cache", "Do not read or write the base cache.", panel=COMPUTATION)
JSON = file(
    "json",
    "Write the result as JSON to this file; - prints it, and nothing else, to standard output. [default: not written]",
    str | None,
)
HTML = file("html", "Write the report as one HTML file. [default: not written]")
SARIF = file(
    "sarif",
    "Write what fails as SARIF 2.1.0 to this file, for GitHub's code scanning. [default: not written]",
)
SAVED_AUDIT = file(
    "audit",
    "Saved audit of these two models, to use instead of a new one. [default: a new audit]",
    panel=INTRUDERS,
    advanced=True,
)
DATA_SEED = option(
    "data_seed",
    int | None,
    "Seed of generated tasks and of held-out rows. [default: that of the run, or 0]",
    metavar="N",
    panel=MEASURES,
    advanced=True,
)
FORM = option(
    "form",
    str,
    "What to write: adapter, checkpoint or auto. auto writes what TUNED is.",
    "auto",
    names=["--as"],
    metavar="FORM",
    panel=OUTPUT,
    advanced=True,
)
FORCE = flag("force", "Replace --out if it is a model or adapter.", panel=OUTPUT)
KEEP = folder(
    "keep",
    "Folder for finished measurements. Run the same command again to resume. [default: nothing is kept]",
)
CONFIG = file("config", "YAML file of settings; options given here override it. [default: none]", panel=RUN)


def seed_of(what: str) -> Taken:
    return option("seed", int, f"Seed of {what}.", 0, metavar="N", panel=MEASURES, advanced=True)


def parquet_of(what: str) -> Taken:
    text = f"Write the result as Parquet to this file, one row per {what}. [default: not written]"
    return file("parquet", text)


def fail_above_of(who: str) -> Taken:
    text = f"Exit with status 1 if {who} more intruders than this number. [default: no limit]"
    return option("fail_above", int | None, text, metavar="N", panel=OUTPUT)


def fail_above_nats_of(who: str) -> Taken:
    text = (
        f"Exit with status 1 if more nats per token are predicted to be forgotten{who}: if all of the 95 % interval "
        "lies above this. The base needs intruders prepare --loss-on. [default: no limit]"
    )
    return option("fail_above_nats", float | None, text, metavar="NATS", panel=OUTPUT)


def verbose_of(what: str) -> Taken:
    return flag("verbose", f"List every {what}.", names=["--verbose", "-v"], panel=OUTPUT)


def outputs(*taken: Taken) -> Taken:
    return all_of(*taken, then=lambda files: {"to": Outputs(**files)})


def audited(only: Sequence[str]) -> Taken:
    """Take a saved audit, or the settings of one to make, as ``audit``."""

    def chosen(given: dict[str, Any]) -> Mapping[str, Any]:
        saved, settings = given["audit"], given["settings"]
        if saved is None:
            return {"audit": settings}
        for name, value in settings.changed().items():
            raise SettingError(
                f"{name} is {value!r}, and the audit '{saved}' was made with settings of its own; leave {name} out, or "
                "audit again"
            )
        return {"audit": saved}

    made_anew = of_settings("settings", AuditSettings, only=only, advanced=True)
    return all_of(SAVED_AUDIT, made_anew, then=chosen)


def with_cache(*taken: Taken) -> Taken:
    """Take the base cache after ``compute`` and, if it is there, ``loading``, which gets the device of ``compute``."""

    def chosen(made: dict[str, Any]) -> Mapping[str, Any]:
        folder, no_cache = made.pop("cache"), made.pop("no_cache")
        compute = replace(made["compute"], cache=False if no_cache else folder or True)
        loading = {"loading": replace(made["loading"], device=compute.device)} if "loading" in made else {}
        return made | {"compute": compute} | loading

    return all_of(*taken, CACHE, NO_CACHE, then=chosen)


def running_models(*loading: str, **reworded: str) -> Taken:
    """Take the device, how models are loaded and the base cache, of a command that audits and runs the models."""
    device = (
        "Device of the models and of the decompositions: auto, cpu or cuda. auto uses CUDA if available, and for "
        "decompositions only if it is covered by the proofs too."
    )
    return with_cache(
        of_settings("compute", Compute, only=["device"], reworded={"device": device}),
        of_settings("loading", Loading, only=loading, reworded=reworded),
    )


def typed(loading: Loading) -> dict[str, Any]:
    """Return the options of loading that were typed: the device is that of the audit too."""
    return replace(loading, device=Loading().device).changed()


def auditing() -> Taken:
    """Take every setting of an audit, and where it is computed, each as an argument of its own."""
    settings = of_settings("settings", AuditSettings, only=["k", "epsilon", *settings_of(AuditSettings)])
    compute = with_cache(of_settings("compute", Compute))
    return all_of(settings, compute, then=lambda made: vars(made["settings"]) | vars(made["compute"]))


def _chosen_ray(values: dict[str, Any]) -> Mapping[str, Any]:
    """Read the Ray cluster as the verbs take it: none, one of this machine, or that at an address."""
    address = values["ray"]
    if address is None:
        cpus, gpus = values.get("cpus", 1), values.get("gpus")
        given = {"cpus": cpus if cpus != 1 else None, "gpus": gpus or None}
        refuse_given(given, "is for workers on Ray", "pass --ray too, or leave it out")
    return values | {"ray": False if address is None else address or True}


_ADDRESS = option(
    "ray",
    str | None,
    "Run on the Ray cluster at this address; without an address, on a Ray of this machine. [default: without Ray]",
    metavar="[ADDRESS]",
    panel=COMPUTATION,
)
RAY = all_of(_ADDRESS, then=_chosen_ray)
WORKERS_ON_RAY = all_of(
    _ADDRESS,
    option("cpus", float, "Number of processors of each worker on Ray.", 1, metavar="N", panel=COMPUTATION),
    option("gpus", float, "Number of GPUs of each worker on Ray.", 0, metavar="N", panel=COMPUTATION),
    then=_chosen_ray,
)
