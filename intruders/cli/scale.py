"""``intruders scale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..audits.audit_settings import OF_WHOLE_WEIGHTS, AuditSettings, Compute
from ..checkpoints.stored.selection import Selection
from ..data.columns import Columns
from ..errors import SettingError
from ..experiments.experiment_settings import HealSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from ..settings import settings_of
from . import options, setting_options
from .command import examples
from .output import check_json, put_json, refuse_given, say, terminal_width

Target = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of intruders to allow in the model. With --task, --loss-on or --at, critical scales are found "
        "only if this is given. [default: 0]",
        rich_help_panel=options.INTRUDERS,
    ),
]
At = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Scale to write to --out: 1 is the update as trained. [default: the scale that --task and --loss-on "
        "choose]",
        rich_help_panel=options.OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder for the model at that scale. [default: not written]",
        rich_help_panel=options.OUTPUT,
    ),
]


@examples(
    ("Find the largest update scale without intruders", "intruders scale smollm2-135m my-adapter"),
    (
        "Write the scale that keeps a task and forgets least",
        "intruders scale smollm2-135m my-adapter --task word-problems --loss-on pydoc --out scaled",
    ),
)
@setting_options.of(AuditSettings, "settings", only=OF_WHOLE_WEIGHTS)
@setting_options.of(Compute, "compute", only=["device"], reworded={"device": options.DEVICE_OF_BOTH})
@setting_options.of(Loading, "loading", only=["dtype", "load_in"])
@setting_options.of(LossSettings, "losses", only=["loss_on"])
@setting_options.of(ScoreSettings, "scores", only=["tasks", *settings_of(Columns)])
@setting_options.of(
    HealSettings,
    "measuring",
    only=["allow", "max_documents", "max_tokens", "max_examples"],
    reworded={
        "max_documents": "Number of documents per corpus, sampled with --seed: half choose the scale, half are "
        "reported.",
        "max_examples": "Number of examples of each split: validation examples choose the scale, and test examples are "
        "reported.",
    },
)
@options.with_cache_and_device
def scale(
    base: options.Base,
    tuned: options.Tuned = None,
    *,
    target: Target = None,
    losses: LossSettings,
    scores: ScoreSettings,
    measuring: HealSettings,
    data_seed: options.DataSeed = None,
    seed: Annotated[int, options.seed_of("halves and document samples")] = 0,
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    at: At = None,
    out: Out = None,
    form: options.Form = "auto",
    force: options.Force = False,
    json: options.JsonOrStdout = None,
) -> None:
    """Find the largest update scale without intruders.

    Reports the critical scale of each matrix and of the model. With --task and --loss-on it measures up to 19 scales
    instead, and --out writes the one that keeps the task and forgets least.
    """
    from ..audits.scales.critical_scales import critical_scales
    from ..experiments.choose_scale import choose_scale
    from ..mitigation.write_at_scale import write_at_scale
    from ..reports.scale import scale_choice_lines, scale_lines
    from ..system.folders import check_target
    from .progress import progress_bar

    check_json(json)
    has_data = bool(losses.loss_on or scores.tasks)
    # The search takes many audits. A user who names a scale, or has data to choose one, did not ask for it.
    is_searched = target is not None or not (has_data or at is not None)
    _refuse_ignored(
        out,
        at,
        settings,
        of_model={"as": None if form == "auto" else form, "force": force or None},
        of_data=measuring.changed()
        | scores.part(Columns).changed()
        | options.typed(loading)
        | {"data-seed": data_seed, "seed": seed or None},
        has_data=has_data,
        is_searched=is_searched,
    )
    if out is not None:
        check_target(out, force=force)
        if at is None and not has_data:
            raise SettingError(
                f"out is '{out}', and no scale was given; pass --at NUMBER, or --task and --loss-on to choose one"
            )
    with progress_bar() as progress:
        result = None
        if is_searched:
            result = critical_scales(
                base,
                tuned,
                audit=settings,
                target=target or 0,
                compute=compute,
                progress=progress,
            )
        choice = None
        if has_data:
            choice = choose_scale(
                base,
                tuned,
                task=scores.tasks,
                loss_on=losses.loss_on,
                settings=measuring,
                columns=scores.part(Columns),
                data_seed=data_seed,
                seed=seed,
                loading=loading,
                progress=progress,
            )
        written = None
        if out is not None:
            wanted = at if at is not None else 1.0 if choice is None else choice.scale
            written = write_at_scale(
                base,
                tuned,
                wanted,
                out,
                selection=settings.part(Selection),
                form=form,
                force=force,
                progress=progress,
            )
    document = {} if result is None else result.to_document()
    if choice is not None:
        document |= {"choice": choice.to_document()}
    if written is not None:
        document |= {"written": written.to_document()}
    if put_json(document, json):
        return
    if result is not None:
        say(scale_lines(result, terminal_width()))
    if choice is not None:
        say([*([] if result is None else [""]), *scale_choice_lines(choice)])
    if written is not None:
        update = f"the update of {written.matrices} matrices times {written.scale:g}"
        say([f"written to {out} ({written.form}): {update}"], whole=True)


def _refuse_ignored(
    out: Path | None,
    at: float | None,
    settings: AuditSettings,
    *,
    of_model: dict[str, object],
    of_data: dict[str, object],
    has_data: bool,
    is_searched: bool,
) -> None:
    """Refuse what is not read: options of a model that is not written, of scales not measured, of a search not made."""
    if out is None:
        refuse_given(of_model, "is for a model to write", "pass --out FOLDER, or leave it out")
    if not has_data:
        refuse_given(of_data, "is for scales that are measured", "pass --task and --loss-on, or leave it out")
    if not is_searched:
        of_search = {name: settings.changed().get(name) for name in ("k", "epsilon")}
        refuse_given(
            of_search, "is for the search of critical scales", "pass --target N too, or leave it out"
        )
    if at is not None and out is None:
        raise SettingError(f"at is {at:g}, which is for a model to write; pass --out FOLDER")
    if has_data and (settings.include or settings.exclude):
        raise SettingError(
            "--include or --exclude is given with --task or --loss-on, which measure shares of the complete update; "
            "leave the selection out, or write a scale of your own with --at alone"
        )
