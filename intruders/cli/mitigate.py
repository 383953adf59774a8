"""``intruders mitigate``."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audits.audit_settings import OF_WHOLE_WEIGHTS
from ..errors import SettingError
from ..mitigation.remedies.remedy_table import CONTROLS, PUBLISHED, WHICH, WHICH_HELP
from ..models.loading_settings import Loading
from ..settings import settings_of
from . import options
from .from_verb import REQUIRED, all_of, command, option
from .output import progress_bar, refuse_given, say

if TYPE_CHECKING:
    from ..mitigation.remedies.remedy import Remedy
    from ..system.progress import Progress

_DRAWN_MODE = "random_index"


def _remedy(
    given: Mapping[str, Any], base: str, tuned: str | None, loading: Loading, progress: "Progress"
) -> "Remedy | None":
    """Return the remedy, with its doses or sensitivities. SettingError for an option that it does not read."""
    from ..mitigation.remedies.doses import Doses
    from ..mitigation.remedies.every_remedy import published_remedy
    from ..mitigation.remedies.surgery import Surgery

    name, strength, seed, doses = (given[key] for key in ("remedy", "strength", "seed", "doses"))
    if name is None and strength is not None:
        raise SettingError(f"strength is {strength:g}; expected a remedy that has one; pass --remedy NAME")
    remedy = None if name is None else published_remedy(name, strength, seed or 0)
    draws = remedy is not None and "seed" in settings_of(type(remedy))
    if isinstance(remedy, Surgery):
        draws = given["mode"] == _DRAWN_MODE
    else:
        of_surgery = {"task": given["task"], "data-seed": given["data_seed"], **options.typed(loading)}
        refuse_given(
            of_surgery | {"mode": given["mode"]},
            "only the remedy surgery takes",
            "pass --remedy surgery, or leave it out",
        )
    if seed is not None and given["control"] != "random" and not draws:
        raise SettingError(
            f"seed is {seed}, and nothing is drawn here; expected --control random, a remedy that draws, such "
            f"as drop, or --remedy surgery --mode {_DRAWN_MODE}; leave --seed out"
        )
    if isinstance(remedy, Doses):
        if doses is None:
            raise SettingError(
                "remedy 'doses' needs the doses of these two models; pass --doses with the heal.json of them, or "
                "learn them with intruders heal"
            )
        from ..experiments.heal import doses_for

        return doses_for(doses, base, tuned, remedy.share)
    refuse_given({"doses": doses}, "only the remedy doses takes", "pass --remedy doses, or leave it out")
    if isinstance(remedy, Surgery):
        from ..measures.sensitivities import with_sensitivities

        asked = replace(remedy, task=given["task"], mode=given["mode"] or remedy.mode)
        return with_sensitivities(
            asked, base, tuned, data_seed=given["data_seed"], loading=loading, progress=progress
        )
    return remedy


_of_mitigation = partial(option, panel="Mitigation")

_MITIGATION = all_of(
    _of_mitigation(
        "scale",
        float | None,
        "Intruder scale: 0 removes the intruders, 1 changes nothing. [default: required without --remedy]",
        metavar="NUMBER",
    ),
    _of_mitigation(
        "control",
        str | None,
        f"Scale something else instead: {', '.join(CONTROLS[:-1])} or {CONTROLS[-1]}. [default: intruders]",
        metavar="NAME",
        choices=CONTROLS,
    ),
    _of_mitigation("which", str, WHICH_HELP, WHICH[0], metavar="NAME", choices=WHICH),
    _of_mitigation(
        "remedy",
        str | None,
        f"Apply a published remedy instead: {', '.join(PUBLISHED[:-1])} or {PUBLISHED[-1]}. [default: scale the "
        "intruders]",
        metavar="NAME",
        choices=PUBLISHED,
    ),
    _of_mitigation(
        "strength",
        float | None,
        "Strength of the remedy, such as the alpha of interpolate. [default: the remedy's]",
        metavar="NUMBER",
    ),
    _of_mitigation(
        "task",
        str | None,
        "Task of the remedy surgery: word-problems, pydoc-topics, a Hub task or a data file. Its loss on 128 training "
        "examples is measured. [default: required with surgery]",
        metavar="TASK",
    ),
    _of_mitigation(
        "doses",
        Path | None,
        "Record of the remedy doses: the heal.json that intruders heal wrote, or its folder. [default: required with "
        "doses]",
        metavar="FILE",
        advanced=True,
    ),
    options.DATA_SEED,
    _of_mitigation(
        "mode",
        str | None,
        "Mode of the remedy surgery: abs_select, smooth_abs, grad_direction or random_index. [default: abs_select]",
        metavar="MODE",
        advanced=True,
    ),
    _of_mitigation(
        "seed",
        int | None,
        "Seed of the control random, of the remedy drop and of surgery's random_index. [default: 0]",
        metavar="N",
    ),
    then=lambda given: {"given": given},
)


@command(
    options.BASE,
    options.TUNED,
    _MITIGATION,
    options.audited(OF_WHOLE_WEIGHTS),
    options.folder("out", "Folder to write. It appears complete or not at all.", REQUIRED, Path),
    options.FORM,
    option(
        "rank",
        str | None,
        "Rank of the written adapter: a number, or keep for that of TUNED. Cutting the rank has an error, which is "
        "printed. [default: as the mitigation needs]",
        metavar="N",
        panel=options.OUTPUT,
    ),
    options.FORCE,
    option(
        "check", bool, "Audit the written model.", True, names=["--check/--no-check"], panel=options.OUTPUT
    ),
    options.running_models(
        "dtype",
        dtype="surgery: type of the weights in memory: auto (the checkpoint's own), bfloat16, float16 or float32.",
    ),
)
def mitigate(
    *,
    base: str,
    tuned: str | None,
    given: dict[str, Any],
    out: Path,
    rank: str | None,
    loading: Loading,
    **asked: Any,
) -> None:
    """Scale a model's intruders and save the result.

    --control scales something else, to test whether the intruders mattered. --remedy applies another remedy instead.

    Examples:
      # Scale every intruder to 30 % and save the result
      intruders mitigate smollm2-135m my-adapter --scale 0.3 --out mitigated
      # Halve the complete update of every weight instead
      intruders mitigate smollm2-135m my-adapter --remedy interpolate --strength 0.5 --out halved
    """
    from ..mitigation.mitigate import mitigate as run
    from ..mitigation.remedies.remedy_table import INTRUDERS
    from ..reports.mitigation import mitigation_lines

    with progress_bar() as progress:
        result = run(
            base,
            tuned,
            **asked,
            scale=given["scale"],
            out=out,
            control=given["control"] or INTRUDERS,
            which=given["which"],
            remedy=_remedy(given, base, tuned, loading, progress),
            rank=int(rank) if rank is not None and rank.isdecimal() else rank,
            seed=given["seed"] or 0,
            progress=progress,
        )
    say(mitigation_lines(result))
    say([f"written to {out}"], whole=True)
