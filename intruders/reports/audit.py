"""An audit as text for a terminal, in 80 columns, complete without color and plain when piped; and as a page."""

import base64
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audits.result import figures, summary
from ..audits.result.audit_result import Audit
from ..audits.result.records import CERTIFICATES, AuditedMatrix
from ..audits.scales.critical_scales_result import CriticalScales
from ..charts.chart import Axis, Chart, Grid, Rule, for_page
from ..checkpoints.stored.names import ModulePath, module_paths
from ..system.commands import shell_lines
from ..system.plain_values import plain
from ..system.words import duration, interval, number, percent, plural
from .audit_command import audit_command
from .html_page import render_page
from .next_steps import next_steps
from .terminal import Page

WORST_DRAWN = 3  # matrices that get figures of their own
KINDS_SHOWN = 20  # module types, unless verbose
WORST_SHOWN = 3
STEPS_SHOWN = 3
NAMES_AT_LEAST = 22  # characters, before a column gives way in a narrow terminal
_SPARE_COLUMNS = ("eff. rank", "update", "matrices")
LAYERS_A_LINE = 60
_BESIDE_LAYERS = 20  # characters of a line of layers that are no layer
SHADES = " ░▒▓█"
ASCII_SHADES = " .:*#"


def print_audit(audit: Audit, page: Page, verbose: bool = False) -> None:
    """Print `audit` on one screen; with `verbose` every module type, matrix, skipped tensor and step has a line."""
    _totals(audit, page)
    if audit.matrices:
        _kinds(audit, page, verbose)
        _layers(audit, page)
        _matrices(audit, page, verbose)
    rows = [
        [name.replace("²", "^2") if page.plain else name, number(value), number(chance)]
        for name, value, chance in summary.beside_chance(audit.matrices)
    ]
    if rows and verbose:
        page.say("")
        page.table((f"top-{audit.k} subspaces, medians", "value", "chance"), rows)
    _closing(audit, page, verbose)
    _next_steps(audit, page, verbose)


def _totals(audit: Audit, page: Page) -> None:
    tuned = f"{audit.tuned_source} ({audit.tuned_kind})"
    for label, source in (("base ", audit.base_source), ("tuned", tuned)):
        page.say((f"{label}  {page.end_of(source, page.width - 7)}", "dim"))
    if not audit.matrices:
        page.say((next_steps(audit).finding, "bold"))
        return
    headline = plural(audit.intruders, "intruder dimension")
    where = f" in {plural(audit.vectors, 'vector')} of {plural(len(audit.matrices), 'matrix', 'matrices')}"
    energy = f", energy share {percent(audit.intruder_energy_share)}" if audit.intruders else ""
    if audit.forgetting is not None:
        page.folded(audit.forgetting.in_words(), "bold")
        page.folded(audit.forgetting.shares_in_words(), "")
    style, left = "bold red" if audit.intruders else "bold green", len(headline)
    for line in page.lines_of(f"{headline}{where}{energy}"):
        page.say((line[:left], style), line[left:])
        left = max(0, left - len(line) - 1)


def _kinds(audit: Audit, page: Page, verbose: bool) -> None:
    kinds = summary.by_kind(audit.matrices)
    shown = kinds if verbose else kinds[:KINDS_SHOWN]
    rows = [_kind_row(kind) for kind in shown]
    styles = ["" if kind.intruders else "dim" for kind in shown]
    if len(kinds) > 1:
        rows.append(_kind_row(summary.summarize("all", audit.matrices)))
        styles.append("bold")
    titles = ["module", "matrices", "intruders", "energy", "update", "relative", "eff. rank"]
    longest = max(len(row[0]) for row in [titles, *rows])
    for spare in _SPARE_COLUMNS:
        if page.room([titles, *rows]) >= min(longest, NAMES_AT_LEAST):
            break
        position = titles.index(spare)
        for row in [titles, *rows]:
            del row[position]
    page.say("")
    page.table(titles, rows, styles)
    if len(kinds) > len(shown):
        page.say((f"and {len(kinds) - len(shown)} more module types (--verbose)", "dim"))
    explained = "energy: energy share of the intruders"
    explained += "; update: Frobenius norm of W - W0" if "update" in titles else ""
    page.folded(explained, "dim")
    page.folded("relative: largest singular value of the update divided by the base's, median", "dim")


def _kind_row(kind: summary.KindSummary) -> list[str]:
    counts = [kind.kind, f"{kind.matrices:,}", f"{kind.intruders:,}", percent(kind.energy_share)]
    return [*counts, number(kind.frobenius), percent(kind.relative_update), number(kind.effective_rank)]


def _layers(audit: Audit, page: Page) -> None:
    stacks = {name: own for name, own in summary.by_layer(audit.matrices).items() if len(own) > 1}
    most = max((count for layers in stacks.values() for count in layers.values()), default=0)
    if most == 0:
        return
    shades = ASCII_SHADES if page.plain else SHADES
    ranges: dict[str, list[int]] = {}  # the counts that every mark stands for
    for count in range(1, most + 1):
        ranges.setdefault(shade(count, most, shades), []).append(count)
    legend = (
        f"{mark} {'-'.join(map(str, dict.fromkeys([own[0], own[-1]])))}" for mark, own in ranges.items()
    )
    page.say("")
    a_line = max(1, min(LAYERS_A_LINE, page.width - _BESIDE_LAYERS))
    for name, layers in stacks.items():
        if len(stacks) > 1:
            page.say((name or "layers", "dim"))
        for line in strip_lines(layers, most, shades, a_line):
            page.say(line)
    page.folded(f"intruders per layer:  {'   '.join(legend)}", "dim")


def strip_lines(
    layers: dict[int, int], most: int, shades: str = SHADES, a_line: int = LAYERS_A_LINE
) -> list[str]:
    """Return layers in lines of up to `a_line`, shaded by intruders; `-`: nothing was audited."""
    numbers = range(min(layers), max(layers) + 1)
    cells = 2 if len(numbers) <= a_line // 2 else 1
    digits = len(str(numbers[-1]))
    lines = []
    for start in range(0, len(numbers), a_line):
        several = numbers[start : start + a_line]
        marks = "".join((shade(layers[i], most, shades) if i in layers else "-") * cells for i in several)
        lines.append(f"layer {several[0]:>{digits}} |{marks}| {several[-1]}")
    return lines


def shade(count: int, most: int, shades: str = SHADES) -> str:
    """Return the mark of `count` on a scale up to `most`: blank only for 0, the darkest for `most`."""
    return shades[math.ceil(count / most * (len(shades) - 1))] if count else shades[0]


def _matrices(audit: Audit, page: Page, verbose: bool) -> None:
    shown = audit.matrices if verbose else summary.worst(audit.matrices, WORST_SHOWN)
    if not shown:
        return
    of = f"{audit.affected} of {len(audit.matrices)} matrices have intruders"
    names = [matrix.name for matrix in audit.matrices]
    place_of = dict(zip(names, module_paths(names), strict=True))
    rows = [
        [
            matrix.name,
            f"{matrix.intruders}/{len(matrix.vectors)}",
            percent(matrix.intruder_energy_share),
            interval(*min(vector.max_cosine for vector in matrix.vectors)),
        ]
        for matrix in shown
    ]
    titles = ("intruders", "energy", "lowest max cosine")
    room = page.room([("", *titles), *rows])
    for row in rows:
        path = place_of[row[0]]
        if len(row[0]) > room and path.layer is not None:  # what distinguishes it
            row[0] = f"layer {path.layer} {path.kind}"
    page.say("")
    if len(of) > room:
        page.say((of, "bold"))
        of = "matrix"
    page.table((of, *titles), rows, ["" if matrix.intruders else "dim" for matrix in shown])


def _closing(audit: Audit, page: Page, verbose: bool) -> None:
    page.say("")
    if audit.matrices:
        proofs = ", ".join(f"{name} {count:,}" for name, count in summary.certificates(audit.matrices))
        unsure = summary.ambiguous(audit.matrices)
        ambiguities = f"; {unsure:,} ambiguous" if unsure else ""
        if verbose or unsure:
            page.say_beside("decided by: ", proofs + ambiguities)
    if audit.skipped:
        reasons = ", ".join(
            f"{count:,} {reason}" for reason, count in summary.skipped_by_reason(audit.skipped)
        )
        page.say_beside("skipped:    ", reasons)
        if verbose:
            for skipped in audit.skipped:
                page.say((f"  {skipped.name}: {skipped.reason}", "dim"))
    for note in audit.settings.get("matched", []):
        page.say_beside("note:       ", note)
    path = "every matrix decomposed in full; " if audit.exact else ""
    rounded = f"base rounded to {audit.settings['base_dtype']}; " if audit.settings.get("base_dtype") else ""
    settings = f"k = {audit.k}, epsilon = {audit.epsilon:g}; {rounded}{path}{duration(audit.seconds)}"
    page.say_beside("settings:   ", settings, "dim")


def _next_steps(audit: Audit, page: Page, verbose: bool) -> None:
    words = next_steps(audit)
    page.say("")
    # Without matrices, the finding is the headline already; the headline of others is the finding.
    meaning = f"{words.finding} {words.meaning}" if audit.matrices else words.meaning
    if verbose or not audit.matrices:
        page.folded(meaning)
        if words.steps:
            page.say("")
    shown = words.steps if verbose else words.steps[:STEPS_SHOWN]
    for position, step in enumerate(shown, start=1):
        start = f"{position}. " if len(shown) > 1 else ""
        page.folded(start + step.sentence, indent=" " * len(start))
        for line in shell_lines(step.command or (), max(1, page.width - 5)):
            page.say((f"     {line}", "bold"))
    more = "" if verbose else "--verbose adds every matrix and all advice; "
    if audit.forgetting is None and summary.would_have_nats(audit.matrices):  # on one screen with all of it
        more = f"prepare --loss-on adds nats{'' if verbose else ', --verbose all advice'}; "
    page.folded(f"{more}--html FILE writes a report.", "dim")


def audit_figures(audit: Audit, scales: CriticalScales | None = None) -> list[Chart | Grid]:
    """Return the layers, the intruders over epsilon, three charts for each of the worst matrices, and the scales."""
    charts: list[Chart | Grid] = []
    if audit.matrices:
        charts += [figures.intruders_by_layer(audit.matrices), intruders_over_epsilon(audit)]
    charts += [] if audit.forgetting is None else [figures.shares_by_layer(audit.forgetting)]
    for matrix in summary.worst(audit.matrices, WORST_DRAWN) or audit.matrices[:1]:
        charts += [
            figures.similarity(matrix),
            figures.cosines(matrix, audit.epsilon),
            figures.singular_values(matrix),
        ]
    return charts if scales is None else [*charts, scales.chart()]


def intruders_over_epsilon(audit: Audit) -> Chart:
    counts = [audit.count(epsilon=epsilon) for epsilon in figures.EPSILONS]
    line = figures.counted("intruders", figures.EPSILONS, counts, tone=1)
    x = Axis("epsilon", "epsilon", limits=(0.0, 1.0))
    y = Axis("intruders", f"intruders (k = {audit.k})", from_zero=True)
    return Chart("over-epsilon", "Intruders over epsilon", x, y, [line], [Rule("x", audit.epsilon)])


def render_audit(audit: Audit, scales: CriticalScales | None = None) -> str:
    return render_page(
        "audit.html.j2",
        ["count.js", "plots.js", "charts.js", "audit.js"],
        audit_payload(audit, scales),
        scales=scales,
        audit=audit,
        words=next_steps(audit, scales),
        summary=summary,
        command=audit_command(audit),
        settings={"k": audit.k, "epsilon": audit.epsilon, "exact": audit.exact, **audit.settings},
    )


def audit_payload(audit: Audit, scales: CriticalScales | None) -> dict[str, Any]:
    """Return plain JSON values: bounds in full, since the page counts from them; an infinite scale is null."""
    paths = module_paths([matrix.name for matrix in audit.matrices])
    payload: dict[str, Any] = {
        "k": audit.k,
        "epsilon": audit.epsilon,
        "matrices": [_matrix(matrix, path) for matrix, path in zip(audit.matrices, paths, strict=True)],
        "scale": None,
    }
    if scales is not None:
        of_matrices = {m.name: for_page([m.measured, m.predicted, m.searched]) for m in scales.matrices}
        payload["scale"] = {"matrices": of_matrices, "figure": scales.chart().payload()}
    if audit.forgetting is not None:
        payload["nats"] = figures.shares_by_layer(audit.forgetting).payload()
    return payload


def _matrix(matrix: AuditedMatrix, path: ModulePath) -> dict[str, Any]:
    update, vectors = matrix.update, matrix.vectors
    return {
        "name": matrix.name,
        "stack": path.stack,
        "layer": path.layer,
        "module": path.kind,
        "shape": list(matrix.shape),
        "rank": matrix.rank,
        "relative": for_page(matrix.relative_update),
        **for_page(update),
        "index": [vector.index for vector in vectors],
        "values": for_page([vector.singular_value for vector in vectors]),
        "lower": [plain(vector.max_cosine[0]) for vector in vectors],
        "upper": [plain(vector.max_cosine[1]) for vector in vectors],
        "intruder": [int(vector.intruder) for vector in vectors],
        "certificate": [CERTIFICATES.index(vector.certificate) for vector in vectors],
        "ambiguous": [vector.index for vector in vectors if vector.ambiguous],
        "baseValues": for_page(matrix.base_singular_values),
        "similarity": packed_cosines(matrix.similarity),
        "subspaces": for_page(plain(matrix.subspaces)),
    }


def packed_cosines(similarity: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Pack cosines as bytes in base64, row by row: 1/255 is finer than a color scale shows."""
    steps = np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)
    return {"shape": list(steps.shape), "bytes": base64.b64encode(steps.tobytes()).decode()}
