"""An attribution as text for a terminal, and as a page: shares of forgetting, and intruders, by matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..audits.result.figures import layer_grid
from ..charts.chart import Axis, Grid
from ..experiments.attribution import Attribution, MatrixShare, MeasuredRise, Share
from ..system.words import duration, plural
from .html_page import render_figures
from .terminal import Page, estimate_text

_LARGEST = 10  # matrices that the table shows
_WIDE = 120  # columns of a terminal in which every interval fits


def print_attribution(attribution: Attribution, page: Page) -> None:
    page.prose(*map(rise_line, attribution.rises))
    page.say("")
    largest = attribution.largest(_LARGEST)
    for title, shares in (
        ("kind of module", kinds_of(attribution)),
        ("layer", attribution.layers),
        (f"matrix, the {len(largest)} largest", largest),
    ):
        _print_table(page, attribution, title, shares)
        page.say("")
    page.prose(*remarks(attribution), f"took {duration(attribution.seconds)}")


def rise_line(rise: MeasuredRise) -> str:
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


def _print_table(page: Page, attribution: Attribution, title: str, shares: Sequence[Share]) -> None:
    is_wide = page.console.width >= _WIDE
    has_ratio = attribution.task is not None
    has_intruders = any(isinstance(share, MatrixShare) for share in shares)
    titles = [title, *(f"part of {rise.name}" for rise in attribution.rises)]
    if has_ratio:
        titles.append("forgotten per nat learned" if is_wide else "per nat learned")
    if has_intruders:
        titles.append("intruders")
    rows = []
    for share in shares:
        parts = [share.parts[rise.name] for rise in attribution.rises]
        cells = [share.name, *(estimate_text(part, is_wide, "+.4f") for part in parts)]
        if has_ratio:
            ratio = share.ratio(attribution.text, attribution.task)
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        if isinstance(share, MatrixShare):
            cells.append("-" if share.intruders is None else str(share.intruders))
        rows.append(cells)
    page.columns(titles, rows, wrapped=range(1, len(titles)))


def render_attribution(attribution: Attribution) -> str:
    return render_figures(
        "attribution.html.j2",
        attribution_grids(attribution),
        attribution=attribution,
        kinds=kinds_of(attribution),
        lines=[*(rise_line(rise) for rise in attribution.rises), *remarks(attribution)],
    )


def attribution_grids(attribution: Attribution) -> list[Grid]:
    rises = attribution.rises
    grids = [_parts(at, rise, attribution) for at, rise in enumerate(rises) if rise.rise.estimate]
    counts = {
        share.name: float(share.intruders) for share in attribution.matrices if share.intruders is not None
    }
    return [*grids, *intruder_maps(counts, "Intruders", "of the tuned model")]


def intruder_maps(counts: Mapping[str, float], title: str, which: str) -> list[Grid]:
    """Return a map of the number of intruders by matrix; none where no matrix has any."""
    if not any(counts.values()):
        return []
    caption = (
        f"Each cell is the number of intruders in one matrix {which}; of several matrices, such as experts, it is "
        "their sum."
    )
    return [layer_grid("intruders", title, Axis("intruders", "intruders"), counts, caption, is_count=True)]


def _parts(number: int, rise: MeasuredRise, attribution: Attribution) -> Grid:
    shares = {
        share.name: 100 * share.parts[rise.name].estimate / rise.rise.estimate
        for share in attribution.matrices
    }
    # One matrix can have more than all others together, which would leave these without a color: 98 % of the
    # matrices are told apart, from a tenth of a percent.
    end = max(float(np.quantile(np.abs(list(shares.values())), 0.98)), 0.1)
    return layer_grid(
        f"parts-{number}",
        f"Shares of the change on {rise.name}",
        Axis("share", "share of the change (%)", limits=(-end, end)),
        shares,
        f"Each cell is the share that one matrix has of the change of {rise.rise.estimate:+.3f} nats per token; "
        "several of a cell are their mean. Below zero the matrix works against the change. Shares beyond "
        f"{end:.1f} % have the last color.",
        signed=True,
    )
