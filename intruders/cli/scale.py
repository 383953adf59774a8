"""``intruders scale``."""

import re
import warnings
from pathlib import Path
from typing import Any

from ..audits.audit_settings import OF_WHOLE_WEIGHTS, AuditSettings, Compute
from ..audits.result.forgetting import LARGE, NOT_PREDICTED, Forgetting
from ..data.columns import Columns
from ..errors import SettingError
from ..experiments.experiment_settings import HealSettings
from ..measures.measure_settings import LossSettings, ScoreSettings
from ..models.loading_settings import Loading
from ..system.plain_values import plain
from ..system.progress import Progress
from . import options
from .from_verb import all_of, command, of_settings, option
from .output import Outputs, put_json, refuse_given, say, terminal_width

# What a scale is chosen by, as :func:`intruders.choose_scale` takes it.
_CHOOSING = all_of(
    of_settings({"loss_on": "loss_on"}, LossSettings),
    of_settings({"tasks": "task"}, ScoreSettings),
    of_settings("columns", Columns),
    of_settings(
        "settings",
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
    then=lambda given: {"choosing": given},
)


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
    _CHOOSING,
    of_settings("settings", AuditSettings, only=OF_WHOLE_WEIGHTS, advanced=True),
    options.running_models("dtype", "load_in"),
    option(
        "at",
        float | None,
        "Scale to write to --out: 1 is the update as trained. [default: the scale that --task and --loss-on choose]",
        metavar="NUMBER",
        panel=options.OUTPUT,
    ),
    option(
        "nats",
        float | None,
        "Nats per token that may be forgotten, above 0 and at most 1. Finds the largest scale up to 1 at which the "
        "upper end of the predicted 95 % interval keeps to it. The base needs intruders prepare --loss-on. "
        "[default: not predicted]",
        metavar="NATS",
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
    choosing: dict[str, Any],
    settings: AuditSettings,
    compute: Compute,
    loading: Loading,
    at: float | None,
    nats: float | None,
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
    from ..reports.scale import scale_choice_lines, scale_lines, scale_within_lines
    from ..system.folders import check_target

    has_data = bool(choosing["loss_on"] or choosing["task"])
    # The search takes many audits. A user who names a scale, or has what chooses one, did not ask for it.
    is_searched = target is not None or not (has_data or at is not None or nats is not None)
    if out is None:
        of_model = {"as": None if form == "auto" else form, "force": force or None}
        refuse_given(of_model, "is for a model to write", "pass --out FOLDER, or leave it out")
    if not has_data:
        of_data = choosing["settings"].changed() | choosing["columns"].changed() | options.typed(loading)
        of_data |= {"data-seed": choosing["data_seed"], "seed": choosing["seed"] or None}
        refuse_given(of_data, "is for scales that are measured", "pass --task and --loss-on, or leave it out")
    if not is_searched:
        of_search = {name: settings.changed().get(name) for name in ("k", "epsilon")}
        refuse_given(
            of_search, "is for the search of critical scales", "pass --target N too, or leave it out"
        )
    if at is not None and out is None:
        raise SettingError(f"at is {at:g}, which is for a model to write; pass --out FOLDER")
    if nats is not None and not 0 < nats <= LARGE:
        raise SettingError(
            f"nats is {nats:g}; expected nats per token above 0 and at most {LARGE:g}, beyond which nothing is "
            "predicted; pass 0.1 to allow a tenth"
        )
    if has_data or at is not None:
        refuse_given({"nats": nats}, "chooses a scale", "leave it out, or --at, --task and --loss-on")
    if (has_data or nats is not None) and (settings.include or settings.exclude):
        raise SettingError(
            "--include or --exclude is given with --task, --loss-on or --nats, which are about shares of the complete "
            "update; leave the selection out, or write a scale of your own with --at alone"
        )
    if out is not None:
        check_target(out, force=force)
        if at is None and nats is None and not has_data:
            raise SettingError(
                f"out is '{out}', and no scale was given; pass --at NUMBER, or --nats NATS, or --task and --loss-on to "
                "choose one"
            )
    document: dict[str, Any] = {}
    lines: list[str] = []
    saved: list[str] = []
    with to.work() as progress:
        if is_searched:
            result = critical_scales(
                base, tuned, audit=settings, target=target or 0, compute=compute, progress=progress
            )
            document |= result.to_document()
            lines += ["", *scale_lines(result, terminal_width())]
        if has_data:
            choice = choose_scale(base, tuned, **choosing, loading=loading, progress=progress)
            at = choice.scale if at is None else at
            document["choice"] = choice.to_document()
            lines += ["", *scale_choice_lines(choice)]
        if nats is not None:
            forgetting = _predicted(base, tuned, compute, progress)
            at = forgetting.scale_within(nats)
            document["nats"] = {"limit": nats, "scale": at, "forgetting": plain(forgetting)}
            lines += ["", *scale_within_lines(forgetting, nats)]
        if out is not None and at is not None:
            written = write_at_scale(
                base, tuned, at, out, selection=settings, form=form, force=force, progress=progress
            )
            document["written"] = written.to_document()
            update = f"the update of {written.matrices} matrices times {written.scale:g}"
            saved = [f"written to {out} ({written.form}): {update}"]
    if put_json(document, to.json):
        return
    say(lines[1:])
    say(saved, whole=True)


def _predicted(base: str, tuned: str | None, compute: Compute, progress: Progress) -> Forgetting:
    """Return the nats that an audit predicts of the complete update; SettingError with the reason where it does not."""
    from ..audits.audit import audit
    from ..audits.result.forgetting import why_not_predicted
    from ..audits.result.summary import median_rank, unchanged_in_words

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(NOT_PREDICTED))  # the refusal says it
        audited = audit(base, tuned, **vars(compute), progress=progress)
    if audited.forgetting is None:
        nothing = unchanged_in_words(audited.base_source, audited.tuned_source)
        why = why_not_predicted(median_rank(audited.matrices)) if audited.matrices else nothing
        raise SettingError(f"--nats has no answer: {why}")
    return audited.forgetting
