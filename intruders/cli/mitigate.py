"""``intruders mitigate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..audits.audit_settings import OF_WHOLE_WEIGHTS, AuditSettings, Compute
from ..errors import SettingError
from ..mitigation.remedies.remedy_table import CONTROLS, PUBLISHED, WHICH, WHICH_HELP
from ..models.loading_settings import Loading
from . import options, setting_options
from .command import examples
from .completion import one_of
from .output import refuse_given, say
from .saved_audit import audit_or_settings

if TYPE_CHECKING:
    from ..mitigation.remedies.remedy import Remedy
    from ..system.progress import Progress

MITIGATION = "Mitigation"
_SURGERY, _DRAWN_MODE = "surgery", "random_index"


Scale = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Intruder scale: 0 removes the intruders, 1 changes nothing. [default: required without --remedy]",
        rich_help_panel=MITIGATION,
    ),
]
Control = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Scale something else instead: {', '.join(CONTROLS[:-1])} or {CONTROLS[-1]}. [default: intruders]",
        autocompletion=one_of(CONTROLS),
        rich_help_panel=MITIGATION,
    ),
]
Which = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=WHICH_HELP,
        autocompletion=one_of(WHICH),
        rich_help_panel=MITIGATION,
    ),
]
RemedyName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Apply a published remedy instead: {', '.join(PUBLISHED[:-1])} or {PUBLISHED[-1]}. "
        "[default: scale the intruders]",
        autocompletion=one_of(PUBLISHED),
        rich_help_panel=MITIGATION,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Strength of the remedy, such as the alpha of interpolate. [default: the remedy's]",
        rich_help_panel=MITIGATION,
    ),
]
SurgeryTask = Annotated[
    str | None,
    typer.Option(
        metavar="TASK",
        help="Task of the remedy surgery: word-problems, pydoc-topics, a Hub task or a data file. Its loss on "
        "128 training examples is measured. [default: required with surgery]",
        rich_help_panel=MITIGATION,
    ),
]
DosesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Record of the remedy doses: the heal.json that intruders heal wrote, or its folder. [default: "
        "required with doses]",
        rich_help_panel=MITIGATION,
    ),
]
SurgeryMode = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="Mode of the remedy surgery: abs_select, smooth_abs, grad_direction or random_index. "
        "[default: abs_select]",
        rich_help_panel=MITIGATION,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Seed of the control random, of the remedy drop and of surgery's random_index. [default: 0]",
        rich_help_panel=MITIGATION,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder to write. It appears complete or not at all.",
        rich_help_panel=options.OUTPUT,
    ),
]
Rank = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Rank of the written adapter: a number, or keep for that of TUNED. Cutting the rank has an "
        "error, which is printed. [default: as the mitigation needs]",
        rich_help_panel=options.OUTPUT,
    ),
]
Check = Annotated[
    bool,
    typer.Option("--check/--no-check", help="Audit the written model.", rich_help_panel=options.OUTPUT),
]


@examples(
    (
        "Scale every intruder to 30 % and save the result",
        "intruders mitigate smollm2-135m my-adapter --scale 0.3 --out mitigated",
    ),
    (
        "Halve the complete update of every weight instead",
        "intruders mitigate smollm2-135m my-adapter --remedy interpolate --strength 0.5 --out halved",
    ),
)
@setting_options.of(AuditSettings, "settings", only=OF_WHOLE_WEIGHTS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(
    Loading,
    "loading",
    only=["dtype"],
    reworded={
        "dtype": "surgery: type of the weights in memory: auto (the checkpoint's own), bfloat16, float16 or float32."
    },
)
@options.with_cache_and_device
def mitigate(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    scale: Scale = None,
    control: Control = None,
    which: Which = WHICH[0],
    remedy: RemedyName = None,
    strength: Strength = None,
    task: SurgeryTask = None,
    doses: DosesFile = None,
    data_seed: options.DataSeed = None,
    mode: SurgeryMode = None,
    seed: Seed = None,
    audit: options.SavedAudit = None,
    out: Out,
    form: options.Form = "auto",
    rank: Rank = None,
    force: options.Force = False,
    check: Check = True,
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
) -> None:
    """Scale a model's intruders and save the result.

    --control scales something else, to test whether the intruders mattered. --remedy applies another remedy instead.
    """
    from ..mitigation.mitigate import mitigate as run
    from ..mitigation.remedies.remedy_table import INTRUDERS
    from ..reports.mitigation import mitigation_lines
    from .progress import progress_bar

    _refuse_ignored(
        remedy, control, mode, seed, {"task": task, "data-seed": data_seed, **options.typed(loading)}
    )
    drawn_by = seed or 0
    with progress_bar() as progress:
        result = run(
            base,
            tuned,
            scale=scale,
            out=out,
            control=control or INTRUDERS,
            which=which,
            remedy=_remedy_of(
                remedy,
                base,
                tuned,
                strength=strength,
                seed=drawn_by,
                record=doses,
                task=task,
                mode=mode,
                data_seed=data_seed,
                loading=loading,
                progress=progress,
            ),
            rank=int(rank) if rank is not None and rank.isdecimal() else rank,
            form=form,
            audit=audit_or_settings(audit, settings),
            seed=drawn_by,
            force=force,
            check=check,
            compute=compute,
            progress=progress,
        )
    say(mitigation_lines(result))
    say([f"written to {out}"], whole=True)


def _refuse_ignored(
    remedy: str | None, control: str | None, mode: str | None, seed: int | None, of_surgery: dict[str, object]
) -> None:
    """Refuse what the remedy does not read."""
    if remedy != _SURGERY:
        refuse_given(
            of_surgery | {"mode": mode},
            "only the remedy surgery takes",
            "pass --remedy surgery, or leave it out",
        )
    if seed is not None and control != "random" and not _may_draw(remedy, mode):
        raise SettingError(
            f"seed is {seed}, and nothing is drawn here; expected --control random, a remedy that draws, such as drop, "
            f"or --remedy surgery --mode {_DRAWN_MODE}; leave --seed out"
        )


def _may_draw(remedy: str | None, mode: str | None) -> bool:
    """Return whether a remedy takes a seed; an unknown one may, so that the error is about its name."""
    from ..mitigation.remedies.every_remedy import known_remedies
    from ..settings import settings_of

    if remedy is None or remedy == _SURGERY:
        return remedy is not None and mode == _DRAWN_MODE
    known = known_remedies()
    return remedy not in known or "seed" in settings_of(known[remedy])


def _remedy_of(
    name: str | None,
    base: str,
    tuned: str | None,
    *,
    strength: float | None,
    seed: int,
    record: Path | None,
    task: str | None,
    mode: str | None,
    data_seed: int | None,
    loading: Loading,
    progress: Progress,
) -> Remedy | None:
    """Return the remedy: doses has those of a record of the same tuned model, surgery the task's sensitivities."""
    from ..mitigation.remedies.doses import Doses
    from ..mitigation.remedies.every_remedy import published_remedy
    from ..mitigation.remedies.surgery import Surgery

    if name is None and strength is not None:
        raise SettingError(f"strength is {strength:g}; expected a remedy that has one; pass --remedy NAME")
    remedy = None if name is None else published_remedy(name, strength, seed)
    if isinstance(remedy, Doses):
        if record is None:
            raise SettingError(
                "remedy 'doses' needs the doses of these two models; pass --doses with the heal.json of them, or "
                "learn them with intruders heal"
            )
        from ..experiments.heal import doses_for

        return doses_for(record, base, tuned, remedy.share)
    refuse_given({"doses": record}, "only the remedy doses takes", "pass --remedy doses, or leave it out")
    if isinstance(remedy, Surgery):
        from ..measures.sensitivities import with_sensitivities

        asked = replace(remedy, task=task, mode=mode or remedy.mode)
        return with_sensitivities(asked, base, tuned, data_seed=data_seed, loading=loading, progress=progress)
    return remedy
