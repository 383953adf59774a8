"""The results for the eye: one table of times, and below it what does not fit into its columns."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .inputs import DESCRIPTION
from .measure import Cost, K, Row
from .memory import TARGET_BYTES
from .pages import TARGET_SECONDS
from .peers import RESIDUAL, Peer
from .results import Results

_LEGEND = (
    "s: seconds, ours the median of several runs. x: time of the reference over ours. read: passes over the whole "
    "matrix in thin products, +C where a Cholesky factorization came on top. intr.: intruders among the vectors "
    "examined; all ways agree. whole: with the base decomposed, which took once what the row 'decomposed' says. "
    "reference: two full float32 SVDs a matrix. PEFT: reduce_intruder_dimension, which "
    "also writes an adapter."
)


def print_results(results: Results, console: Console) -> None:
    console.print(_times(results.rows))
    console.print(_LEGEND)
    console.print(f"Synthetic matrices: {DESCRIPTION}.")
    for row in results.rows:
        if row.note:
            console.print(row.note)
    _print_peers(results.peers, console)
    for peak in results.peaks:
        console.print(
            f"Peak memory, {peak.matrices} matrices, {peak.checkpoint_bytes / 2**30:.2f} GiB of bf16 on disk, "
            f"{peak.label}: {peak.peak_bytes / 2**30:.2f} GiB ({peak.import_bytes / 2**30:.2f} of it Python and torch; "
            f"target under {TARGET_BYTES / 2**30:g}), {peak.seconds:.1f} s, {peak.intruders} intruders."
        )
    for page in results.pages:
        console.print(
            f"Report, {page.label}, {page.page_bytes / 2**20:.1f} MiB: usable in a browser after {page.seconds:.2f} s "
            f"(target under {TARGET_SECONDS:g})."
        )
    for check in results.checks:
        console.print(
            f"{check.label}: {check.cold:.2f} times what its kind of 7B layer predicts by the number of weights; "
            f"base cached {check.cached:.2f} times."
        )
    if results.read_rate is not None:
        console.print(f"Thin products read the large layers at {results.read_rate / 1e9:.1f} GB/s.")
    for estimate in results.estimates:
        console.print(
            f"On paper, {estimate.model} ({estimate.weights / 1e9:.1f}e9 weights), every matrix "
            f"{'with' if estimate.intruders else 'without'} intruders: {estimate.cold / 60:.1f} min, base cached "
            f"{estimate.cached / 60:.1f} min; its passes alone {estimate.reading / 60:.1f} min."
        )
    console.print(f"Machine: {results.machine}. The suite took {results.seconds / 60:.1f} min.")


def _print_peers(peers: Sequence[Peer], console: Console) -> None:
    if not peers:
        return
    console.print(
        f"The {K} leading triplets of the base alone, with a residual of at most {RESIDUAL:g} of the largest value. "
        "This proves nothing about the other vectors, and counts no intruders:"
    )
    for label in dict.fromkeys(peer.label for peer in peers):
        times = ", ".join(f"{peer.solver} {_peer_seconds(peer)}" for peer in peers if peer.label == label)
        console.print(f"{label}: {times}.")


def _peer_seconds(peer: Peer) -> str:
    return "did not reach it" if peer.seconds is None else f"{_seconds(peer.seconds)} s"


def _times(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    heads = (
        "intr.",
        "refer-\nence s",
        "PEFT\ns",
        "ours\ns",
        "\nx",
        "\nread",
        "cached\ns",
        "\nx",
        "whole\ns",
        "\nx",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for section in dict.fromkeys(row.section for row in rows):
        members = [row for row in rows if row.section == section]
        table.add_row(f"[bold]{section}[/bold]")
        for row in [*members, *_sums(members)]:
            table.add_row(*_cells(row))
        if any(row.decomposing is not None for row in members):
            table.add_row("  decomposed", *[""] * (len(heads) - 2), _seconds(_decomposing(members)), "")
    return table


def _decomposing(rows: Sequence[Row]) -> float:
    """Seconds for the bases of a section, each once."""
    by_label = {row.label: row.decomposing for row in rows if row.decomposing is not None}
    if any(row.shape is None for row in rows):  # the same model under several adapters
        return next(iter(by_label.values()))
    return sum(by_label.values())


def _sums(rows: Sequence[Row]) -> list[Row]:
    """All rows of a section of several layers as one, and those without intruders."""
    calm = [row for row in rows if row.intruders == 0]
    if any(row.reference is None or row.shape is None for row in rows) or len(calm) in (0, len(rows)):
        return []
    return [_sum("  all of these", rows), _sum("  no intruders", calm)]


def _sum(label: str, rows: Sequence[Row]) -> Row:
    elements = sum(row.elements for row in rows)

    def total(times: Iterable[float | None]) -> float | None:
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(rows) else None

    def cost(parts: Sequence[Cost]) -> Cost:
        shares = [row.elements / elements for row in rows]
        return Cost(
            sum(part.seconds for part in parts),
            sum(share * part.passes for share, part in zip(shares, parts, strict=True)),
            sum(share * part.rows for share, part in zip(shares, parts, strict=True)),
            sum(part.factorizations for part in parts),
        )

    return Row(
        rows[0].section,
        label,
        None,
        elements,
        sum(row.vectors for row in rows),
        sum(row.intruders for row in rows),
        total(row.reference for row in rows),
        total(row.peft for row in rows),
        cost([row.cold for row in rows]),
        cost([row.cached for row in rows]),
        cost([row.whole for row in rows if row.whole is not None])
        if all(row.whole is not None for row in rows)
        else None,
    )


def _cells(row: Row) -> list[str]:
    def engine(cost: Cost) -> list[str]:
        ratio = "" if row.reference is None else _two_digits(row.reference / cost.seconds)
        return [_seconds(cost.seconds), ratio, f"{cost.passes:.0f}" + ("+C" if cost.factorizations else "")]

    return [
        row.label,
        f"{row.intruders}/{row.vectors}",
        _seconds(row.reference),
        _seconds(row.peft),
        *engine(row.cold),
        *engine(row.cached)[:2],
        *(["", ""] if row.whole is None else engine(row.whole)[:2]),
    ]


def _seconds(time: float | None) -> str:
    if time is None:
        return ""
    return f"{time:.0f}" if time >= 100 else f"{time:.1f}" if time >= 10 else f"{time:.3f}"[:5]


def _two_digits(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
