"""An attribution as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from ...charts.text import duration, plural
from ...experiments.attribution import Attribution, MatrixShare, MeasuredRise, Share
from ..shared.page import Column, Page, lined_up

_LARGEST = 10  # matrices that the table shows
_WIDE = 120  # columns of a terminal in which every interval fits


def print_attribution(attribution: Attribution, console: Console) -> None:
    """Print the measured rises, tables by kind of module, layer and matrix, the check, and where intruders sit."""
    page = Page(console)
    for rise in attribution.rises:
        page.prose(rise_line(rise))
    console.print()
    is_wide = console.width >= _WIDE
    console.print(_table(attribution, "kind of module", kinds_of(attribution), is_wide))
    console.print()
    console.print(_table(attribution, "layer", attribution.layers, is_wide))
    console.print()
    largest = attribution.largest(_LARGEST)
    console.print(_table(attribution, f"matrix, the {len(largest)} largest", largest, is_wide))
    console.print()
    for line in remarks(attribution):
        page.prose(line)
    page.prose(f"took {duration(attribution.seconds)}")


def rise_line(rise: MeasuredRise) -> str:
    """Return the measured change of a loss, and how well the parts sum to it, in a sentence."""
    rows = plural(rise.documents, "document" if rise.kind == "text" else "example")
    return (
        f"loss on {rise.name} ({rise.measure}, {rows}, {plural(rise.tokens, 'token')}): {rise.base_loss:.4f} base, "
        f"{rise.tuned_loss:.4f} tuned, change {rise.rise.text('+.4f')} nats per token; "
        f"the parts sum to {rise.total:+.4f} ({rise.nodes} nodes)"
    )


def kinds_of(attribution: Attribution) -> list[Share]:
    """Return the parts by kind of module, then that of all other tensors, without which they do not sum to the rise."""
    others = attribution.elsewhere
    if others is None or not any(part.estimate for part in others.parts.values()):
        return list(attribution.kinds)
    return [*attribution.kinds, replace(others, name="norms, biases and others")]


def remarks(attribution: Attribution) -> list[str]:
    """Return the check, the shares of intruders and the correlations, in sentences."""
    text, lines = attribution.text, []
    for rise in attribution.rises:
        miss = abs(rise.total - rise.rise.estimate)
        if miss > max(0.02 * abs(rise.rise.estimate), 1e-4):
            lines.append(
                f"note: the parts miss the change on {rise.name} by {miss:.4f} nats per token with {rise.nodes} nodes; "
                "pass --dtype float32 if the models are in 16 bits, or a larger --nodes"
            )
    for check in attribution.checks:
        lines.append(
            f"{check.name}: part {check.part:+.4f}; with the base's matrix in its place the loss on {text} is "
            f"{abs(check.fall):.4f} {'lower' if check.fall >= 0 else 'higher'}"
        )
    inside = [share for share in attribution.matrices if share.of_intruders]
    if inside:
        held = sum(share.of_intruders[text] for share in inside)
        whole = sum(share.parts[text].estimate for share in inside)
        lines.append(
            f"{plural(len(inside), 'matrix', 'matrices')} with intruders: {whole:+.4f} of the change on {text}, "
            f"{held:+.4f} of it in the span of the intruders"
        )
    for name, said in (("intruders", "number of intruders"), ("update_norm", "norm of the update")):
        if name in attribution.correlations:
            lines.append(
                f"Spearman correlation of a matrix's part on {text} with its {said}: "
                f"{attribution.correlations[name]:+.2f} over {plural(len(attribution.matrices), 'matrix', 'matrices')}"
            )
    lines.append(
        "The parts belong to the straight line from base to tuned; another path would split the change otherwise."
    )
    return lines


def _table(attribution: Attribution, title: str, shares: Sequence[Share], is_wide: bool) -> Table:
    has_ratio = attribution.task is not None
    has_intruders = any(isinstance(share, MatrixShare) for share in shares)
    columns = [Column(title, no_wrap=True)]
    columns += [Column(f"part of {rise.name}", of_numbers=True) for rise in attribution.rises]
    if has_ratio:
        columns.append(Column("forgotten per nat learned" if is_wide else "per nat learned", of_numbers=True))
    if has_intruders:
        columns.append(Column("intruders", of_numbers=True))
    rows = []
    for share in shares:
        cells = [share.name, *(_cell(share, rise.name, is_wide) for rise in attribution.rises)]
        if has_ratio:
            ratio = share.ratio(attribution.text, attribution.task)
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        if isinstance(share, MatrixShare):
            cells.append("-" if share.intruders is None else str(share.intruders))
        rows.append(cells)
    return lined_up(columns, rows)


def _cell(share: Share, name: str, is_wide: bool) -> str:
    part = share.parts[name]
    return part.text("+.4f") if is_wide else f"{part.estimate:+.4f}"
