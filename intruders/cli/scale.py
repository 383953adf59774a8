"""``intruders scale``."""

from __future__ import annotations

from pathlib import Path

from ..audits.audit_settings import OF_WHOLE_WEIGHTS, AuditSettings, Compute
from ..checkpoints.stored.selection import Selection
from ..data.columns import Columns
from ..errors import SettingError
from ..experiments.experiment_settings import HealSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from ..settings import settings_of
from . import options
from .from_verb import command, of_settings, option
from .output import Outputs, put_json, refuse_given, say, terminal_width


@command(
    options.BASE,
    options.TUNED,
    option(
        "target",
        int | None,
        "Number of intruders to allow in the model. With --task, --loss-on or --at, critical scales are found only if "
        "this is given. [default: 0]",
        metavar="N",
        panel=options.INTRUDERS,
    ),
    of_settings({"loss_on": "loss_on"}, LossSettings),
    of_settings("scores", ScoreSettings, only=["tasks", *settings_of(Columns)]),
    of_settings(
        "measuring",
        HealSettings,
        only=["allow", "max_documents", "max_tokens", "max_examples"],
        reworded={
            "max_documents": "Number of documents per corpus, sampled with --seed: half choose the scale, half are "
            "reported.",
            "max_examples": "Number of examples of each split: validation examples choose the scale, and test examples "
            "are reported.",
        },
    ),
    options.DATA_SEED,
    options.seed_of("halves and document samples"),
    of_settings("settings", AuditSettings, only=OF_WHOLE_WEIGHTS, advanced=True),
    options.running_models("dtype", "load_in"),
    option(
        "at",
        float | None,
        "Scale to write to --out: 1 is the update as trained. [default: the scale that --task and --loss-on choose]",
        metavar="NUMBER",
        panel=options.OUTPUT,
    ),
    options.folder("out", "Folder for the model at that scale. [default: not written]"),
    options.FORM,
    options.FORCE,
    options.outputs(options.JSON),
)
def scale(
    *,
    base: str,
    tuned: str | None,
    target: int | None,
    loss_on: tuple[str, ...],
    scores: ScoreSettings,
    measuring: HealSettings,
    data_seed: int | None,
    seed: int,
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    at: float | None,
    out: Path | None,
    form: str,
    force: bool,
    to: Outputs,
) -> None:
    """Find the largest update scale without intruders.

    Reports the critical scale of each matrix and of the model. With --task and --loss-on it measures up to 19 scales
    instead, and --out writes the one that keeps the task and forgets least.

    Examples:
      # Find the largest update scale without intruders
      intruders scale smollm2-135m my-adapter
      # Write the scale that keeps a task and forgets least
      intruders scale smollm2-135m my-adapter --task word-problems --loss-on pydoc --out scaled
    """
    from ..audits.scales.critical_scales import critical_scales
    from ..experiments.choose_scale import choose_scale
    from ..mitigation.write_at_scale import write_at_scale
    from ..reports.scale import scale_choice_lines, scale_lines
    from ..system.folders import check_target

    columns = scores.part(Columns)
    has_data = bool(loss_on or scores.tasks)
    # The search takes many audits. A user who names a scale, or has data to choose one, did not ask for it.
    is_searched = target is not None or not (has_data or at is not None)
    if out is None:
        of_model = {"as": None if form == "auto" else form, "force": force or None}
        refuse_given(of_model, "is for a model to write", "pass --out FOLDER, or leave it out")
    if not has_data:
        of_data = measuring.changed() | columns.changed() | options.typed(loading)
        of_data |= {"data-seed": data_seed, "seed": seed or None}
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
    if out is not None:
        check_target(out, force=force)
        if at is None and not has_data:
            raise SettingError(
                f"out is '{out}', and no scale was given; pass --at NUMBER, or --task and --loss-on to choose one"
            )
    result = choice = written = None
    with to.work() as progress:
        if is_searched:
            result = critical_scales(
                base, tuned, audit=settings, target=target or 0, compute=compute, progress=progress
            )
        if has_data:
            choice = choose_scale(
                base,
                tuned,
                task=scores.tasks,
                loss_on=loss_on,
                settings=measuring,
                columns=columns,
                data_seed=data_seed,
                seed=seed,
                loading=loading,
                progress=progress,
            )
        if out is not None:
            wanted = at if at is not None else 1.0 if choice is None else choice.scale
            selection = settings.part(Selection)
            written = write_at_scale(
                base, tuned, wanted, out, selection=selection, form=form, force=force, progress=progress
            )
    document = {} if result is None else result.to_document()
    if choice is not None:
        document |= {"choice": choice.to_document()}
    if written is not None:
        document |= {"written": written.to_document()}
    if put_json(document, to.json):
        return
    if result is not None:
        say(scale_lines(result, terminal_width()))
    if choice is not None:
        say([*([] if result is None else [""]), *scale_choice_lines(choice)])
    if written is not None:
        update = f"the update of {written.matrices} matrices times {written.scale:g}"
        say([f"written to {out} ({written.form}): {update}"], whole=True)
