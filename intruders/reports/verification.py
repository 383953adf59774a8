"""A verification as text for a terminal: 80 columns, complete without color, and plain when piped."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from ..checkpoints.merges.other_tensors import OtherTensor
from ..checkpoints.merges.verdict import NOT_PROVED, TOO_SMALL, VERDICTS, WRONG
from ..checkpoints.merges.verify import Verification, VerifiedMatrix
from ..checkpoints.stored.names import module_paths
from ..measures.verify_served import ServedVerification
from ..system.this_process import ExitStatus
from ..system.words import duration, percent, plural, shorten
from .terminal import WIDTH, Page

_LISTED = 10  # matrices or tensors, unless verbose


def print_verification(
    result: Verification, page: Page, verbose: bool = False, allow_other: bool = False
) -> None:
    """Print verdicts per module type, what is wrong, and what else changed; with ``verbose`` every tensor."""
    sources = {"base": result.base_source, "adapter": result.adapter_source, "merged": result.merged_source}
    for label, source in sources.items():
        page.say((f"{label:7}  {page.end_of(source, WIDTH - 9)}", "dim"))
    styles = {ExitStatus.DONE.value: "bold green", ExitStatus.NOT_TOLD.value: "bold yellow"}
    parts = [f"{verdict}: {counted:,}" for verdict, counted in result.counts.items()]
    matrices = plural(len(result.matrices), "matrix", "matrices")
    answer = f"{matrices}; {', '.join(parts)}" if parts else "no matrix to verify"
    if result.others:
        end = ", which is accepted" if allow_other else ""
        answer += f"; {plural(len(result.others), 'other tensor')} changed{end}"
    page.say((answer, styles.get(result.exit_status(allow_other), "bold red")))
    if result.matrices:
        page.say("")
        _print_table(page, result.matrices)
        page.say((_roundings(result), "dim"))
        # What the verdicts mean, where they do not say it themselves.
        verdicts = (matrix.found for matrix in result.matrices if matrix.found.words)
        for (verdict, words), count in Counter((each.verdict, each.words) for each in verdicts).items():
            page.say(f"{verdict} ({count:,}): {words}")
    chosen = [matrix for matrix in result.matrices if verbose or matrix.found.verdict in {*WRONG, NOT_PROVED}]
    if chosen:
        page.say("")
        _list(page, [_matrix_lines(matrix, page) for matrix in chosen], verbose)
    _list_tensors(page, "changed outside the adapter", result.others, verbose)
    _list_tensors(page, "not compared", result.unchecked, verbose)
    page.say((f"({duration(result.seconds)})", "dim"))


def served_lines(told: ServedVerification) -> list[str]:
    of_base = f"; its base: '{told.base_model}'" if told.base_model else ""
    return [
        f"base     {told.base}",
        f"adapter  {told.adapter}",
        f"served   {told.endpoint}, model '{told.model}'{of_base}",
        f"{told.verdict}, scale {told.scale:.3g} +- {told.error:.2g}: {told.words}",
        f"log-probabilities of {plural(told.tokens, 'token')}; root mean squares of their differences, in nats:",
        f"  base here to base with the adapter here {told.effect:.3g}",
        f"  server to base {told.to_base:.3g}, to base with the adapter {told.to_tuned:.3g}, at best {told.rest:.3g}",
        f"  two equal calls {told.noise:.3g}",
        f"({duration(told.seconds)})",
    ]


def _print_table(page: Page, matrices: Sequence[VerifiedMatrix]) -> None:
    groups: dict[tuple[str, str], list[VerifiedMatrix]] = {}
    for path, matrix in zip(module_paths([matrix.name for matrix in matrices]), matrices, strict=True):
        groups.setdefault((path.kind, matrix.found.verdict), []).append(matrix)
    titles = ("module", "matrices", "verdict", "scale")
    rows, styles = [], []
    for (kind, verdict), members in sorted(groups.items(), key=lambda group: VERDICTS.index(group[0][1])):
        styles.append("red" if verdict in WRONG else "yellow" if verdict in (TOO_SMALL, NOT_PROVED) else "")
        name = page.known(shorten(kind, 22, page.mark))
        rows.append([name, f"{len(members):,}", verdict, _scales(members, page)])
    page.columns(titles, rows, texts=(0, 2, 3), padding=(0, 2), header_style="bold", styles=styles)


def _scales(members: Sequence[VerifiedMatrix], page: Page) -> str:
    """Return bounds that all members share, or the estimates and the largest of their errors."""
    bounds = [member.found.scale for member in members if member.found.scale is not None]
    if bounds:
        # Seven digits; a value that is negligible next to a scale of 1 becomes 0.
        both = (min(low for low, _ in bounds), max(high for _, high in bounds))
        return " to ".join(dict.fromkeys(f"{round(end, 9) + 0.0:.7g}" for end in both))
    estimates = [member.found.estimate for member in members if member.found.estimate is not None]
    if not estimates:
        return ""
    error = max(member.found.error or 0.0 for member in members)
    ends = sorted({f"{min(estimates):.3g}", f"{max(estimates):.3g}"}, key=float)
    return f"{' to '.join(ends)} {'+-' if page.plain else '±'} {error:.2g}"


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
    counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
    page.say("")
    page.say(f"{title}: {plural(len(tensors), 'tensor')} ({counted})")
    _list(page, [[f"  {tensor.name}: {tensor.reason}"] for tensor in tensors], verbose)


def _list(page: Page, items: Sequence[Sequence[str]], verbose: bool) -> None:
    shown = items if verbose else items[:_LISTED]
    for line in chain(*shown):
        page.say(line)
    if len(shown) < len(items):
        page.say((f"and {len(items) - len(shown)} more (--verbose)", "dim"))
