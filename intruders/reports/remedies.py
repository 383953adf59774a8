"""A comparison of remedies as text for a terminal, and as a page with its figures."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..charts.chart import Axis, Chart, Rule, Series, spans_decades
from ..charts.drawing import write_drawings
from ..experiments.point import Point
from ..experiments.remedy_comparison import ComparedRemedy, RemedyComparison, kind_of
from ..measures.intervals import Interval
from ..mitigation.remedies.remedy_table import INTRUDERS
from ..system.files import user_path
from ..system.words import number, plural
from .html_page import render_figures, write_page
from .terminal import WIDE, Page, estimate_text

_CONTROLS = ("shrink", "shrink-output", "random", "resized", "complement")
# The control of the strongest intruders alone.
_OF_TOP = "neighbours"


def print_comparison(comparison: RemedyComparison, page: Page) -> None:
    for line in headline(comparison):
        page.say(line)
    page.say("")
    _print_table(page, comparison)
    for title, columns, rows in _further_tables(comparison):
        if rows and columns:
            page.say("")
            page.say(title)
            titles = ["remedy, strength", *columns]
            page.columns(titles, rows, wrapped=range(1, len(titles)), padding=(0, 1))
    notes = remarks(comparison)
    if notes:
        page.say("")
    for line in notes:
        page.say(line)
    page.say("")
    page.say(f"better than interpolation at equal task loss: {_names(comparison.better)}")
    page.say(f"of these beyond their dose: {_names(comparison.beyond_dose)}")
    page.say(comparison.sentence())
    shell = comparison.command()
    if shell is not None:
        page.say(f"  {shell}")


def headline(comparison: RemedyComparison) -> list[str]:
    rest = {name: counts for name, counts in comparison.counts.items() if name != "report"}
    documents = sum(counts["documents"] for counts in rest.values())
    examples = sum(counts["examples"] for counts in rest.values())
    report = comparison.counts["report"]
    corpora = ", ".join(comparison.base_point.losses)
    base, tuned = (
        number(point.task_loss.estimate) for point in (comparison.base_point, comparison.tuned_point)
    )
    forgotten = f"{comparison.forgotten.text('.3g')} nats per token on {corpora}"
    data = f"strengths chosen on {plural(documents, 'document')} and {plural(examples, 'example')}, shown on "
    level = f"{100 * comparison.level:.4g} % confidence intervals over these, 95 % for all remedies together"
    return [
        f"what {comparison.tuned} forgot of {comparison.base}: {forgotten}",
        f"task loss on {comparison.target}: base {base}, tuned {tuned}; a remedy may cost "
        + number(comparison.allow),
        f"{data}{report['documents']} and {report['examples']} others; {level}",
    ]


def remarks(comparison: RemedyComparison) -> list[str]:
    lines = []
    if comparison.settings.get("which") == "top" and any(
        row.name == INTRUDERS for row in comparison.remedies
    ):
        lines.append("intruders: only the one with the largest singular value of each matrix is scaled")
    for remedy in comparison.remedies:
        if remedy.reason is not None:
            lines.append(f"{remedy.name}: not measured: {remedy.reason}")
        if remedy.dropped_in_first_pass:
            strengths = _numbers(remedy.dropped_in_first_pass)
            lines.append(f"{remedy.name}: {strengths} dropped in the first pass, clearly under the curve")
        if remedy.changes_nothing:
            lines.append(f"{remedy.name}: {_numbers(remedy.changes_nothing)} changes nothing in this model")
        if remedy.over_allowance:
            lines.append(
                f"{remedy.name}: no strength keeps within the allowance; the one with the lowest task loss is shown"
            )
        if "complement" in remedy.no_control:
            lines.append(f"{remedy.name}: control complement: {remedy.no_control['complement']}")
    return lines


def label(remedy: ComparedRemedy) -> str:
    return remedy.name if remedy.chosen is None else f"{remedy.name} {remedy.chosen.strength:g}"


def controls_of(remedies: Sequence[ComparedRemedy]) -> list[str]:
    """Return the columns of the table of controls; that of the strongest intruders only where it was measured."""
    has_top = any(control_margin(remedy, _OF_TOP) is not None for remedy in remedies)
    return [*_CONTROLS, *([_OF_TOP] if has_top else [])]


def control_margin(remedy: ComparedRemedy, control: str) -> Interval | None:
    """Return the margin over a control; for ``random``, the smallest over its draws."""
    margins = [
        point.margin
        for point in remedy.controls
        if point.control and point.control.split()[0] == control and point.margin
    ]
    return min(margins, key=lambda margin: margin.estimate) if margins else None


def _print_table(page: Page, comparison: RemedyComparison) -> None:
    is_wide = page.console.width >= WIDE
    titles = ["remedy", "norm", "output", "healed", "task\nloss", "accuracy", "gain at equal task loss"]
    if is_wide:
        titles = ["remedy, strength", *(title.replace("\n", " ") for title in titles[1:]), "at equal norm"]
    rows = []
    for name, point in measured_rows(comparison):
        accuracy, healed = point.accuracies.get(comparison.target), point.healed
        cells = [
            number(point.norm),
            "-" if point.output is None else number(point.output),
            "-" if healed is None else estimate_text(healed, is_wide, ".3g" if is_wide else ".2f"),
            point.task_loss.text(".3g") if is_wide else number(point.task_loss.estimate),
            "-" if accuracy is None else f"{accuracy:.2f}",
            "-" if point.gain is None else point.gain.text("+.3f"),
            "-" if point.gain_at_norm is None else point.gain_at_norm.text("+.3f"),
        ]
        rows.append([name, *(cells if is_wide else cells[:-1])])
    page.columns(titles, rows, padding=(0, 2 if is_wide else 1))


def _further_tables(
    comparison: RemedyComparison,
) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Yield the title, the columns of numbers and the rows of tables by remedy, which may have none."""
    controlled = [remedy for remedy in comparison.remedies if remedy.controls]
    controls, rows = controls_of(controlled), []
    for remedy in controlled:
        margins = [control_margin(remedy, control) for control in controls]
        marked = (
            "-" if own is None else f"{own.estimate:+.3f}{'*' if own.is_clear else ' '}" for own in margins
        )
        rows.append([label(remedy), *marked])
    yield "gain at equal task loss minus that of a control, in nats per token (*: clear)", controls, rows
    rows = []
    for remedy in comparison.remedies:
        if (parts := remedy.parts) is not None:
            values = (parts.healing, parts.preservation, parts.non_damage, parts.target, parts.harmonic_mean)
            rows.append([label(remedy), *("-" if value is None else f"{value:.2f}" for value in values)])
    columns = ("healing", "preservation", "non-damage", "target", "harmonic mean")
    yield "four parts, each 0 to 1, over all corpora and tasks", columns, rows
    rows = [
        [name, *(f"{score:.3f}" for score in point.harness.values())]
        for name, point in measured_rows(comparison)
    ]
    yield "scores of tasks of lm-evaluation-harness", list(comparison.tuned_point.harness), rows


def measured_rows(comparison: RemedyComparison) -> list[tuple[str, Point]]:
    rows = [("base", comparison.base_point), ("tuned", comparison.tuned_point)]
    rows += [(label(remedy), remedy.chosen) for remedy in comparison.remedies if remedy.chosen is not None]
    return rows


def _names(remedies: Sequence[ComparedRemedy]) -> str:
    return ", ".join(remedy.name for remedy in remedies) or "none, clearly"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


REPORT, FIGURES = "report.html", "figures"


def write_remedies_report(comparison: RemedyComparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the page and its figures (PNG, SVG, CSV) into a folder that exists, and return their paths."""
    page = user_path(folder) / REPORT
    write_page(page, lambda: render_remedies(comparison))
    return [page, *write_drawings(comparison_charts(comparison), user_path(folder) / FIGURES)]


def render_remedies(comparison: RemedyComparison) -> str:
    return render_figures(
        "remedies.html.j2",
        comparison_charts(comparison),
        comparison=comparison,
        headline=headline(comparison),
        remarks=remarks(comparison),
        controls=controls_of(comparison.remedies),
        margin=control_margin,
        measured=measured_rows(comparison),
        kind_of=kind_of,
    )


_CURVE_TONE = 5  # the darkest of the palette
_CAPTION = (
    "The dark line is interpolation from the base to the tuned model. A large mark is a remedy at the chosen strength "
    "on the reported half, with its confidence interval. A faint line joins all strengths, on the half that they were "
    "chosen on."
)


def comparison_charts(comparison: RemedyComparison) -> list[Chart]:
    measured = [
        remedy for remedy in comparison.remedies if remedy.chosen is not None and remedy.name != "interpolate"
    ]
    is_share = comparison.tuned_point.healed is not None
    healed = Axis(
        "healed", "forgetting healed (1: all of it)" if is_share else "pre-training loss (nats per token)"
    )
    target = comparison.target.rpartition("/")[2].partition("?")[0] or comparison.target
    is_log = spans_decades([point.task_loss.estimate for point in comparison.curve])
    over_task_loss = Chart(
        "remedies-task-loss",
        "Healed forgetting over what the task loses",
        Axis("task_loss", f"task loss on {target} (nats per token)", log=is_log),
        healed,
        _series(comparison, measured, lambda point: point.task_loss.estimate),
        caption=f"{_CAPTION} Left and up is better.",
        wide=True,
    )
    over_norm = Chart(
        "remedies-norm",
        "Healed forgetting over the norm of the updates",
        Axis("norm", "norm of all updates (1: the tuned model's)"),
        healed,
        _series(comparison, measured, lambda point: point.norm),
        caption=f"{_CAPTION} A remedy above the curve heals more than its size explains.",
    )
    return [over_task_loss, *([_gains(measured)] if measured else []), over_norm]


def _series(
    comparison: RemedyComparison, measured: Sequence[ComparedRemedy], across: Callable[[Point], float]
) -> list[Series]:
    is_share = comparison.tuned_point.healed is not None

    def up(point: Point) -> Interval | None:
        """Return what the axis says, or None: a share of the data can be too small to tell what was healed on it."""
        return point.healed if is_share else point.loss

    curve = [(point, value) for point in comparison.curve if (value := up(point)) is not None]
    series = [
        Series(
            "interpolate",
            [across(point) for point, _ in curve],
            [value.estimate for _, value in curve],
            notes=[f"alpha {point.strength:g}" for point, _ in curve],
            look="both",
            tone=_CURVE_TONE,
        )
    ]
    for tone, remedy in enumerate(measured):
        tone += tone >= _CURVE_TONE  # the curve's own tone stays its own
        point = remedy.chosen
        assert point is not None
        reported = up(point)
        if reported is not None:
            x, y, low, high = [across(point)], [reported.estimate], [reported.low], [reported.high]
            series.append(Series(label(remedy), x, y, low, high, notes=["reported"], tone=tone))
        tried = [(attempt, attempt.healed) for attempt in remedy.tried if attempt.healed is not None]
        if is_share and len(tried) > 1:
            half = "on the half that strengths are chosen on"
            notes = [f"strength {attempt.strength:g}, {half}" for attempt, _ in tried]
            x, y = [across(attempt) for attempt, _ in tried], [healed.estimate for _, healed in tried]
            series.append(
                Series(remedy.name, x, y, notes=notes, look="both", tone=tone, faint=True, in_legend=False)
            )
    return series


def _gains(measured: Sequence[ComparedRemedy]) -> Chart:
    ordered = sorted(measured, key=lambda remedy: -remedy.chosen.gain.estimate)  # type: ignore[union-attr]
    series = []
    for tone, (name, key) in enumerate((("at equal task loss", "gain"), ("at equal norm", "gain_at_norm"))):
        rows = [
            (position, value)
            for position, remedy in enumerate(ordered)
            if (value := getattr(remedy.chosen, key)) is not None
        ]
        x, y = [value.estimate for _, value in rows], [position + 0.15 * tone for position, _ in rows]
        lows, highs = [value.low for _, value in rows], [value.high for _, value in rows]
        series.append(Series(name, x, y, x_low=lows, x_high=highs, tone=tone))
    return Chart(
        "remedies-gains",
        "Gain over interpolation",
        Axis("gain", "loss of interpolation minus that of the remedy (nats per token)"),
        Axis("remedy", "", ticks=[label(remedy) for remedy in ordered]),
        series,
        rules=[Rule("x", 0.0)],
        caption="One mark is a remedy at the chosen strength; the bar is its confidence interval over documents and "
        "examples. Right of zero the remedy is better than scaling the complete update down.",
        wide=True,
    )
