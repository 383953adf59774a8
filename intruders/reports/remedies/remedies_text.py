"""A comparison of remedies as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...charts.text import number, plural, printable
from ...experiments.compare.compared import ComparedPoint, ComparedRemedy, RemedyComparison
from ...experiments.compare.comparison_verdict import command, sentence
from ...measures.intervals import Interval
from ..shared.page import Page

WIDE = 150  # columns of a terminal in which every interval fits
CONTROLS = ("shrink", "shrink-output", "random", "resized", "complement")


def print_comparison(comparison: RemedyComparison, console: Console) -> None:
    """Print the table, what controls say, why remedies were left out, and the sentence at the end."""
    page = Page(console)
    for line in headline(comparison):
        page.say(line)
    console.print()
    console.print(_table(comparison, console.width >= WIDE))
    measured = [one for one in comparison.remedies if one.controls]
    if measured:
        page.say("")
        page.say(
            "gain at equal task loss minus that of a control, in nats per token (*: clear)",
        )
        console.print(_controls(measured))
    if any(one.parts is not None for one in comparison.remedies):
        page.say("")
        page.say("four parts, each 0 to 1, over all corpora and tasks")
        console.print(_parts(comparison.remedies))
    if comparison.tuned_point.harness:
        page.say("")
        page.say("scores of tasks of lm-evaluation-harness")
        console.print(_harness(comparison))
    notes = remarks(comparison)
    if notes:
        console.print()
    for line in notes:
        page.say(line)
    console.print()
    page.say(f"better than interpolation at equal task loss: {_names(comparison.better)}")
    page.say(f"of these beyond their dose: {_names(comparison.beyond_dose)}")
    page.say(sentence(comparison))
    shell = command(comparison)
    if shell is not None:
        page.say(f"  {shell}")


def headline(comparison: RemedyComparison) -> list[str]:
    """What the model forgot, and on what data this was measured."""
    rest = {name: counts for name, counts in comparison.counts.items() if name != "report"}
    documents = sum(counts["documents"] for counts in rest.values())
    examples = sum(counts["examples"] for counts in rest.values())
    report = comparison.counts["report"]
    corpora = ", ".join(comparison.base_point.losses)
    task_losses = [
        number(point.task_loss.estimate) for point in (comparison.base_point, comparison.tuned_point)
    ]
    forgotten = f"{_ends(comparison.forgotten)} nats per token on {corpora}"
    data = f"strengths chosen on {plural(documents, 'document')} and {plural(examples, 'example')}, shown on "
    level = f"{100 * comparison.level:.4g} % confidence intervals over these, 95 % for all remedies together"
    return [
        f"what {comparison.tuned} forgot of {comparison.base}: {forgotten}",
        f"task loss on {comparison.target}: base {task_losses[0]}, tuned {task_losses[1]}; a remedy may cost "
        + number(comparison.allow),
        f"{data}{report['documents']} and {report['examples']} others; {level}",
    ]


def remarks(comparison: RemedyComparison) -> list[str]:
    """Why remedies, strengths or controls are not there, a line each."""
    found = []
    for one in comparison.remedies:
        if one.reason is not None:
            found.append(f"{one.name}: not measured: {one.reason}")
        if one.dropped:
            found.append(
                f"{one.name}: {_numbers(one.dropped)} dropped in the first pass, clearly under the curve"
            )
        if one.idle:
            found.append(f"{one.name}: {_numbers(one.idle)} changes nothing in this model")
        if one.is_over_allowance:
            found.append(
                f"{one.name}: no strength keeps within the allowance; the one with the lowest task loss is shown"
            )
        if "complement" in one.no_control:
            found.append(f"{one.name}: control complement: {one.no_control['complement']}")
    return found


def label(remedy: ComparedRemedy) -> str:
    """The remedy with its strength, where it has one."""
    return remedy.name if remedy.chosen is None else f"{remedy.name} {remedy.chosen.strength:g}"


def control_margin(remedy: ComparedRemedy, control: str) -> Interval | None:
    """The margin over a control; of the draws of ``random`` the least."""
    found = [
        one.margin
        for one in remedy.controls
        if one.control and one.control.split()[0] == control and one.margin
    ]
    return min(found, key=lambda margin: margin.estimate) if found else None


def _table(comparison: RemedyComparison, is_wide: bool) -> Table:
    found = _new_table("remedy, strength" if is_wide else "remedy", 2 if is_wide else 1)
    titles = [
        "norm",
        "output",
        "healed",
        "task loss" if is_wide else "task\nloss",
        "accuracy",
        "gain at equal task loss",
    ]
    for title in [*titles, *(["at equal norm"] if is_wide else [])]:
        found.add_column(title, justify="right", no_wrap=True)
    for name, point in measured_rows(comparison):
        found.add_row(Text(printable(name)), *_cells(point, comparison.target, is_wide))
    return found


def _cells(point: ComparedPoint, target: str, is_wide: bool) -> list[str]:
    accuracy = point.accuracies.get(target)
    cells = [
        number(point.norm),
        "-" if point.output is None else number(point.output),
        "-" if point.healed is None else _ends(point.healed) if is_wide else f"{point.healed.estimate:.2f}",
        _ends(point.task_loss) if is_wide else number(point.task_loss.estimate),
        "-" if accuracy is None else f"{accuracy:.2f}",
        "-" if point.gain is None else _signed(point.gain),
    ]
    return [
        *cells,
        *(["-" if point.gain_at_norm is None else _signed(point.gain_at_norm)] if is_wide else []),
    ]


def _controls(remedies: Sequence[ComparedRemedy]) -> Table:
    found = _new_table("remedy, strength")
    for title in CONTROLS:
        found.add_column(title, justify="right")
    for remedy in remedies:
        margins = [control_margin(remedy, control) for control in CONTROLS]
        found.add_row(
            Text(printable(label(remedy))), *("-" if one is None else _starred(one) for one in margins)
        )
    return found


def _parts(remedies: Sequence[ComparedRemedy]) -> Table:
    found = _new_table("remedy, strength")
    for title in ("healing", "preservation", "non-damage", "target", "harmonic mean"):
        found.add_column(title, justify="right")
    for remedy in remedies:
        if remedy.parts is not None:
            parts = remedy.parts
            values = (parts.healing, parts.preservation, parts.non_damage, parts.target, parts.harmonic_mean)
            found.add_row(
                Text(printable(label(remedy))), *("-" if one is None else f"{one:.2f}" for one in values)
            )
    return found


def measured_rows(comparison: RemedyComparison) -> list[tuple[str, ComparedPoint]]:
    """Base, tuned model and every remedy at its chosen strength, by what tables call them."""
    found = [("base", comparison.base_point), ("tuned", comparison.tuned_point)]
    return [*found, *((label(one), one.chosen) for one in comparison.remedies if one.chosen is not None)]


def _harness(comparison: RemedyComparison) -> Table:
    found = _new_table("remedy, strength")
    for task in comparison.tuned_point.harness:
        found.add_column(task, justify="right")
    for name, point in measured_rows(comparison):
        found.add_row(Text(printable(name)), *(f"{score:.3f}" for score in point.harness.values()))
    return found


def _new_table(first: str, gap: int = 1) -> Table:
    found = Table(box=None, pad_edge=False, header_style="", padding=(0, gap, 0, 0))
    found.add_column(first, no_wrap=True)
    return found


def _ends(value: Interval) -> str:
    return f"{value.estimate:.3g} [{value.low:.3g}, {value.high:.3g}]"


def _signed(value: Interval) -> str:
    return f"{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _starred(value: Interval) -> str:
    return f"{value.estimate:+.3f}{'*' if value.is_clear else ' '}"


def _names(remedies: Sequence[ComparedRemedy]) -> str:
    return ", ".join(one.name for one in remedies) or "none, clearly"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
