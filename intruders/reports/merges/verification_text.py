"""A verification as text for a terminal: 80 columns, complete without color, and plain when piped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...charts.text import duration, percent, plural, shorten
from ...checkpoints.merges.other_tensors import OtherTensor
from ...checkpoints.merges.verdict import NOT_PROVED, TOO_SMALL, VERDICTS, WRONG
from ...checkpoints.merges.verify import Verification, VerifiedMatrix
from ...checkpoints.stored.names import module_paths
from ...system.this_process import ExitStatus
from ..shared.page import WIDTH, Column, Page, lined_up

_LISTED = 10  # matrices or tensors, unless verbose


def print_verification(
    result: Verification, console: Console, verbose: bool = False, allow_other: bool = False
) -> None:
    """Print the verdicts per module type, the matrices that are wrong, and what else the merged model changed.

    With ``verbose`` every matrix and every other tensor has its own line.
    """
    page = Page(console)
    for label, source in (
        ("base", result.base_source),
        ("adapter", result.adapter_source),
        ("merged", result.merged_source),
    ):
        page.say((f"{label:7}  {page.end_of(source, WIDTH - 9)}", "dim"))
    page.say((_answer(result, allow_other), _style(result.exit_status(allow_other))))
    if result.matrices:
        page.say("")
        console.print(_table(result.matrices, page))
        page.say((_roundings(result), "dim"))
        _print_words(page, result.matrices)
    chosen = [matrix for matrix in result.matrices if verbose or matrix.found.verdict in {*WRONG, NOT_PROVED}]
    _list(
        page,
        [line for matrix in chosen for line in _matrix_lines(matrix, page)],
        len(chosen),
        verbose,
        lines_each=2,
    )
    _list_tensors(page, "changed outside the adapter", result.others, verbose)
    _list_tensors(page, "not compared", result.unchecked, verbose)
    page.say((f"({duration(result.seconds)})", "dim"))


def _answer(result: Verification, allow_other: bool) -> str:
    count = len(result.matrices)
    parts = [f"{verdict}: {counted:,}" for verdict, counted in result.counts.items()]
    text = f"{plural(count, 'matrix', 'matrices')}; {', '.join(parts)}" if parts else "no matrix to verify"
    if result.others:
        end = ", which is accepted" if allow_other else ""
        text += f"; {plural(len(result.others), 'other tensor')} changed{end}"
    return text


def _style(status: int) -> str:
    return {ExitStatus.DONE.value: "bold green", ExitStatus.NOT_TOLD.value: "bold yellow"}.get(
        status, "bold red"
    )


def _table(matrices: Sequence[VerifiedMatrix], page: Page) -> Table:
    """Return one row per module type and verdict."""
    groups: dict[tuple[str, str], list[VerifiedMatrix]] = {}
    for path, matrix in zip(module_paths([matrix.name for matrix in matrices]), matrices, strict=True):
        groups.setdefault((path.kind, matrix.found.verdict), []).append(matrix)
    columns = [
        Column("module", no_wrap=True),
        Column("matrices", of_numbers=True, no_wrap=True),
        Column("verdict", no_wrap=True),
        Column("scale", no_wrap=True),
    ]
    rows, styles = [], []
    for (kind, verdict), members in sorted(groups.items(), key=lambda group: VERDICTS.index(group[0][1])):
        styles.append("red" if verdict in WRONG else "yellow" if verdict in (TOO_SMALL, NOT_PROVED) else "")
        name = page.known(shorten(kind, 22, page.mark))
        rows.append([name, f"{len(members):,}", verdict, _scales(members, page)])
    return lined_up(columns, rows, padding=(0, 2), header_style="bold", styles=styles)


def _plus_minus(page: Page) -> str:
    return "+-" if page.plain else "±"


def _scales(members: Sequence[VerifiedMatrix], page: Page) -> str:
    """Return bounds that all members share, or the estimates and the largest of their errors."""
    bounds = [member.found.scale for member in members if member.found.scale is not None]
    if bounds:
        low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
        return " to ".join(dict.fromkeys([_scale(low), _scale(high)]))
    estimates = [member.found.estimate for member in members if member.found.estimate is not None]
    if not estimates:
        return ""
    error = max(member.found.error or 0.0 for member in members)
    ends = sorted({f"{min(estimates):.3g}", f"{max(estimates):.3g}"}, key=float)
    return f"{' to '.join(ends)} {_plus_minus(page)} {error:.2g}"


def _scale(value: float) -> str:
    """Write seven digits; a value that is negligible next to a scale of 1 becomes 0."""
    return f"{round(value, 9) + 0.0:.7g}"


def _roundings(result: Verification) -> str:
    counts = Counter(matrix.found.precision for matrix in result.matrices if matrix.found.precision)
    if not counts:
        if all(matrix.found.estimate is None for matrix in result.matrices):
            return "scale: there is nothing to estimate it from"
        together = f"; of all: {result.estimate:.3g}" if result.estimate is not None else ""
        return f"scale: estimated by least squares, with its standard error{together}"
    ways = ", ".join(f"{way} ({count:,})" for way, count in counts.most_common())
    has_bounds = any(matrix.found.scale is not None for matrix in result.matrices)
    return f"scale: proved bounds; {ways}" if has_bounds else f"merge: {ways}"


def _print_words(page: Page, matrices: Sequence[VerifiedMatrix]) -> None:
    """Print what the verdicts mean, where they do not say it themselves."""
    counts = Counter((matrix.found.verdict, matrix.found.words) for matrix in matrices if matrix.found.words)
    for (verdict, words), count in counts.items():
        page.say(f"{verdict} ({count:,}): {words}")


def _matrix_lines(matrix: VerifiedMatrix, page: Page) -> list[str]:
    verdict = matrix.found
    scale = _scales([matrix], page)
    facts = [f"{verdict.verdict}, scale {scale}" if scale else verdict.verdict]
    if verdict.rest is not None:
        facts.append(f"rest {percent(verdict.rest)} of the base")
    if verdict.outside:
        facts.append(f"{verdict.outside:,} numbers off")
    return [matrix.name, f"  {'; '.join(facts)}"]


def _list_tensors(page: Page, title: str, tensors: Sequence[OtherTensor], verbose: bool) -> None:
    if not tensors:
        return
    reasons = Counter(tensor.reason.partition(";")[0] for tensor in tensors)
    page.say("")
    page.say(
        f"{title}: {plural(len(tensors), 'tensor')} ({', '.join(f'{r}: {n}' for r, n in reasons.items())})"
    )
    _list(
        page,
        [f"  {tensor.name}: {tensor.reason}" for tensor in tensors],
        len(tensors),
        verbose,
        heading=False,
    )


def _list(
    page: Page, lines: Sequence[str], count: int, verbose: bool, heading: bool = True, lines_each: int = 1
) -> None:
    """Print the lines of the first items, or of all ``count`` items with ``verbose``."""
    shown = count if verbose else min(count, _LISTED)
    if lines and heading:
        page.say("")
    for line in lines[: shown * lines_each]:
        page.say(line)
    if count > shown:
        page.say((f"and {count - shown} more (--verbose)", "dim"))
