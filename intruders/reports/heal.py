"""A healing as text for a terminal, and as a page with its figures."""

import math
import shlex
from statistics import median

from ..audits.result.figures import layer_grid
from ..charts.chart import Axis, Chart, Grid, Series, spans_decades
from ..checkpoints.stored.names import module_paths
from ..data.columns import Columns
from ..data.corpora import OWN_TEXT, RANDOM_TOKENS, SELF
from ..experiments import experiment_settings as ways
from ..experiments.healing import BASE, CURVE, HEALED, INTERPOLATION, INTRUDERS, TUNED, Healing
from ..experiments.point import HealedPoint
from ..measures.intervals import Interval
from ..models.loading_settings import LOAD_IN
from ..system.commands import command_of
from ..system.words import duration, number, percent, plural
from .attribute import intruder_maps
from .html_page import render_figures
from .terminal import WIDE, Page, estimate_text

SIGNED = "+.3f"  # the format of a change

LABELS = {
    INTERPOLATION: "interpolation, same task loss",
    INTRUDERS: "intruders removed",
    ways.SHARE: "best share of the update",
    ways.BLOCKS: "doses of three blocks",
    ways.DOSES: "a dose per matrix",
    ways.WEIGHTS: "weights",
    ways.REPLAY: "weights, text replayed",
    SELF: "weights, the base's own text",
    RANDOM_TOKENS: "weights, random tokens",
}


def print_healing(healing: Healing, page: Page) -> None:
    page.prose(*verdict(healing))
    for corpus in healing.healed_point.corpora:
        title = "it was learned on other documents of it" if corpus == healing.corpus else "chose nothing"
        page.prose("", f"{corpus}, {plural(healing.documents[corpus], 'document')} ({title})")
        _print_table(page, healing, corpus)
    if any(measure.gain is not None for _, point in rows(healing) for measure in point.corpora.values()):
        page.prose("", "gain: loss of interpolation at that model's task loss, minus that model's loss")
    for task, count in healing.examples.items():
        page.prose("", f"{task}, {plural(count, 'example')}: {_accuracies(healing, task)}")
    page.prose("", dose_line(healing), *intruder_lines(healing), *(f"note: {note}" for note in healing.notes))
    if healing.out is not None:
        where = f"{healing.out} ({healing.form}; {duration(healing.seconds)})"
        page.prose("", f"the healed model is in {where}")
        if command := check_command(healing):
            page.prose("to measure it again on the half that is reported above:")
            page.say(f"  {command}")


def verdict(healing: Healing) -> list[str]:
    """Return how much was forgotten, and how much of it came back at which price, a sentence each."""
    tuned, healed = healing.tuned_point, healing.healed_point
    measure, corpus = healed.corpora[healing.corpus], healing.corpus
    task = healed.tasks[healing.task]
    forgotten = tuned.corpora[corpus].forgotten
    price = f"task loss {tuned.tasks[healing.task].loss.estimate:.4f} tuned, {task.loss.estimate:.4f} healed"
    if measure.healed is None:
        how_much = f"{forgotten.text(SIGNED)} nats per token; healed {measure.forgotten.text(SIGNED)}"
        return [f"tuning forgot nothing clearly on {corpus}: {how_much}; {price}"]
    how_much = f"{forgotten.estimate:.3f} nats per token tuned, {measure.forgotten.estimate:.3f} healed"
    lines = [f"{_share(measure.healed)} of the forgetting on {corpus} is healed: {how_much}; {price}"]
    other = healing.point(INTERPOLATION)
    if healing.step == 0:
        start = (
            "the tuned model"
            if healing.start == 1
            else f"interpolation with the dose {number(healing.start)}"
        )
        lines.append(f"that is {start}: no step of the learning was better on the half that chooses")
    elif other is not None:
        clear = ""
        if (gain := measure.gain) is not None:
            how = "clearly more" if gain.is_below_zero else "not clearly less"
            how = "clearly less" if gain.is_above_zero else how
            clear = f", {how}: {gain.text(SIGNED)} nats per token"
        is_reached = _is_reached(healing, other)
        whose = "that task loss" if is_reached else "the tuned model's task loss, since none gets so low"
        share = _share(other.corpora[corpus].healed)
        lines.append(f"interpolation at {whose} (dose {number(other.dose or 0.0)}) heals {share}{clear}")
    return lines


def _share(healed: Interval | None) -> str:
    return "-" if healed is None else percent(max(0.0, healed.estimate))


def rows(healing: Healing) -> list[tuple[str, HealedPoint]]:
    wanted = (BASE, TUNED, HEALED, INTERPOLATION, *healing.rivals, INTRUDERS)
    named = [(name, healing.point(name)) for name in wanted]
    return [(_label(healing, name, point), point) for name, point in named if point is not None]


def dose_line(healing: Healing) -> str:
    """Return the doses in a sentence: their median, and their mean by kind of module; or that weights were learned."""
    if healing.learn != ways.DOSES and healing.step:
        count = plural(len(healing.doses), "matrix", "matrices")
        return f"the weights of {count} were learned"
    doses = [dose for own in healing.doses.values() for dose in own]
    kinds: dict[str, list[float]] = {}
    for path, own in zip(module_paths(list(healing.doses)), healing.doses.values(), strict=True):
        kinds.setdefault(path.kind, []).extend(own)
    if len({f"{dose:.2f}" for dose in doses}) == 1:
        return f"{plural(len(doses), 'dose')}, all {doses[0]:.2f} (1 is the tuned model, 0 the base)"
    means = {kind: sum(own) / len(own) for kind, own in kinds.items()}
    said = ", ".join(f"{kind} {means[kind]:.2f}" for kind in sorted(means, key=lambda kind: -means[kind]))
    return (
        f"{plural(len(doses), 'dose')} (1 is the tuned model, 0 the base), median {median(doses):.2f}; mean by module: "
        f"{said}"
    )


def intruder_lines(healing: Healing) -> list[str]:
    """Return the number of intruders and the norm of the update before, and after if a model was written."""
    if healing.intruders_after is None:
        return [f"intruders before {healing.intruders_before:,}"]
    count = f"intruders before {healing.intruders_before:,}, after {healing.intruders_after:,}"
    before, after = (math.sqrt(sum(norms[side] ** 2 for norms in healing.norms.values())) for side in (0, 1))
    return [f"{count}; norm of the update before {before:.3g}, after {after:.3g}" if healing.norms else count]


def check_command(healing: Healing) -> str:
    """Return the command that measures the written model on the reported documents and examples, if one can."""
    settings = healing.settings
    # What the base wrote itself is in no file.
    names = [name for name in healing.healed_point.corpora if name not in OWN_TEXT]
    given = {name: settings[name] or None for name in ("max_documents", "max_tokens", "seed")}
    given["load_in" if settings["dtype"] in LOAD_IN else "dtype"] = settings["dtype"]
    given["estimate"] = settings["estimate"] or None
    # Prompts have no right answers, and a record of an earlier release does not name its tasks.
    measures = healing.healed_point.tasks
    tasks = [
        described
        for name, described in settings.get("tasks", {}).items()
        if name in measures and measures[name].accuracy is not None
    ]
    if tasks:
        given |= {"task": tasks, "max_examples": settings.get("report_examples") or settings["max_examples"]}
        if settings["max_new_tokens"] != Columns().max_new_tokens:
            given["max_new_tokens"] = settings["max_new_tokens"]
        if settings["data_seed"]:
            given["data_seed"] = settings["data_seed"]
    measured = command_of("evaluate", healing.out or "", base=healing.base, loss_on=names, **given)
    return shlex.join([*measured, "--reported-half"]) if names or tasks else ""


def _print_table(page: Page, healing: Healing, corpus: str) -> None:
    is_wide = page.console.width >= WIDE
    # The name of a file with its columns would leave no room to those of the models.
    heading = healing.task if len(healing.task) <= 20 else "task"
    gain, task_loss = "gain", f"{heading}\nloss"
    if is_wide:
        gain, task_loss = "gain over interpolation", f"{healing.task} loss"
    lines = []
    for name, point in rows(healing):
        measure = point.corpora[corpus]
        forgotten = "" if point.name == BASE else estimate_text(measure.forgotten, is_wide, SIGNED)
        healed = gained = ""
        if measure.healed is not None and point.name not in (BASE, TUNED):
            healed = f"{measure.healed.estimate:.0%}"
        if measure.gain is not None and point.name not in (BASE, TUNED, INTERPOLATION):
            gained = estimate_text(measure.gain, is_wide, SIGNED)
        loss = estimate_text(measure.loss, is_wide)
        lines.append([name, loss, forgotten, healed, gained, f"{_task(healing, point):.4f}"])
    titles = ("model", "loss", "forgotten", "healed", gain, task_loss)
    # The names give way in a narrow terminal: a number or its heading that is cut says nothing.
    page.columns(titles, lines, wrapped=() if is_wide else (0,))


def _accuracies(healing: Healing, task: str) -> str:
    said = []
    for name in (BASE, TUNED, HEALED, INTERPOLATION, *healing.rivals):
        point = healing.point(name)
        accuracy = None if point is None else point.tasks[task].accuracy
        if accuracy is not None:
            label = LABELS.get(name, name) if name in healing.rivals else name
            said.append(f"{label} {accuracy.text('.2f')}")
    return "accuracy " + ", ".join(said) if said else "no accuracy"


def _is_reached(healing: Healing, interpolation: HealedPoint) -> bool:
    """Return whether an interpolation solves the task as well as the healed model, or else as well as the tuned one."""
    return _task(healing, interpolation) <= _task(healing, healing.healed_point)


def _label(healing: Healing, name: str, point: HealedPoint) -> str:
    said = LABELS.get(name, name)
    if name == INTERPOLATION and not _is_reached(healing, point):
        said = "interpolation, tuned model's task loss"
    return f"{said} ({number(point.dose)})" if name == INTERPOLATION and point.dose else said


def render_healing(healing: Healing) -> str:
    return render_figures(
        "heal.html.j2",
        healing_charts(healing),
        healing=healing,
        verdict=verdict(healing),
        facts=[dose_line(healing), *intruder_lines(healing)],
        rows=rows(healing),
        command=check_command(healing) if healing.out is not None else None,
        is_end=lambda point: point.name in (BASE, TUNED),
        is_line=lambda point: point.name in (BASE, TUNED, INTERPOLATION),
    )


def healing_charts(healing: Healing) -> list[Chart | Grid]:
    charts: list[Chart | Grid] = [_trade(healing, corpus) for corpus in healing.healed_point.corpora]
    if healing.learn == ways.DOSES and healing.step:
        doses = {name: sum(own) / len(own) for name, own in healing.doses.items()}
        caption = "Each cell is the (mean) dose of one matrix: 1 is the tuned model, 0 the base."
        charts.append(layer_grid("doses", "Doses", Axis("dose", "dose"), doses, caption))
    counts = {name: float(own[0] or 0) for name, own in healing.intruders.items()}
    return [*charts, *intruder_maps(counts, "Intruders of the tuned model", "before the healing")]


def _trade(healing: Healing, corpus: str) -> Chart:
    line = [point for point in healing.points if point.name == CURVE]
    series = [
        Series(
            "interpolation",
            [_task(healing, point) for point in line],
            [point.corpora[corpus].forgotten.estimate for point in line],
            notes=[f"dose {point.dose:g}" for point in line if point.dose is not None],
            look="both",
            tone=0,
        )
    ]
    others = (*healing.rivals, INTRUDERS)
    tones = {BASE: 3, TUNED: 2, HEALED: 1} | {name: 4 + number for number, name in enumerate(others)}
    for name, tone in tones.items():
        if (point := healing.point(name)) is not None:
            rise, label = point.corpora[corpus].forgotten, LABELS.get(name, name)
            x, y, low, high = [_task(healing, point)], [rise.estimate], [rise.low], [rise.high]
            series.append(Series(label, x, y, low, high, tone=tone))
    is_log = spans_decades([_task(healing, point) for point in healing.points])
    return Chart(
        f"forgetting-{corpus}",
        f"Forgetting on {corpus}",
        Axis("task_loss", f"loss on {healing.task} (nats per token)", log=is_log),
        Axis("forgotten", "rise of the loss over the base (nats per token)"),
        series,
        caption=f"Each point is one model on {healing.documents[corpus]} documents that were not learned from; bars "
        "are 95 % intervals. Lower left is better: less forgotten, task kept.",
    )


def _task(healing: Healing, point: HealedPoint) -> float:
    return point.tasks[healing.task].loss.estimate
