"""Several audits of one base, reduced to what they have in common, and their page."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..audits.result.audit_result import Audit
from ..audits.result.figures import COUNT, EPSILONS, counted, similarity
from ..audits.result.records import AuditedMatrix, UpdateSize, Vector, energy_share_of
from ..audits.result.summary import median_relative, update_norm
from ..charts.chart import MANY, Axis, Chart, Grid, Rule, Series
from ..charts.drawing import evenly
from ..checkpoints.pairing.pairing import SkipKind
from ..checkpoints.stored.names import module_paths
from ..errors import SettingError
from ..system.words import number, percent, plural
from .html_page import render_figures

SAME_VALUE = 0.01  # relative difference of leading singular values up to which two bases count as one


@dataclass(frozen=True)
class Shared:
    """Several audits with only the matrices that all of them have, in the order of the first."""

    audits: list[Audit]
    left_out: int  # names that some audit has and another has not
    other_bases: list[str]  # tuned sources of audits whose base differs from the first one's
    k: int  # the number of vectors that every audit examined
    epsilon: float  # at which all are counted


def common_matrices(audits: Sequence[Audit]) -> Shared:
    """Keep the matrices that all audits have, by name and shape. SettingError if there is none."""
    changed = next((audit for audit in audits if audit.matrices), None)
    if changed is None:
        raise SettingError(
            f"the audits of {_some_sources(audits)} compare no matrix: each is equal to its base's or was skipped; "
            "expected a model that differs from its base; add its audit"
        )
    audits = [audit if audit.matrices else _unchanged(audit, changed) for audit in audits]
    matrices_of = [{(matrix.name, matrix.shape): matrix for matrix in audit.matrices} for audit in audits]
    common = [key for key in matrices_of[0] if all(key in matrices for matrices in matrices_of)]
    if not common:
        raise SettingError(
            f"the audits of {_some_sources(audits)} have no matrix in common; compare audits of one base"
        )
    kept = [
        dataclasses.replace(audit, matrices=[matrices[key] for key in common])
        for audit, matrices in zip(audits, matrices_of, strict=True)
    ]
    others = [audit.tuned_source for audit in kept[1:] if not _same_base(kept[0], audit)]
    left_out = len(set().union(*matrices_of)) - len(common)
    return Shared(kept, left_out, others, min(audit.k for audit in kept), kept[0].epsilon)


def _some_sources(audits: Sequence[Audit]) -> str:
    return ", ".join(f"'{audit.tuned_source}'" for audit in audits[:3])


def _unchanged(audit: Audit, other: Audit) -> Audit:
    """Return the audit with those matrices of ``other`` that it skipped as equal: an adapter at its first step."""
    equal = {skipped.name for skipped in audit.skipped if skipped.kind is SkipKind.UNCHANGED}
    return dataclasses.replace(audit, matrices=[_equal(m) for m in other.matrices if m.name in equal])


def _equal(matrix: AuditedMatrix) -> AuditedMatrix:
    """Return the matrix as it is without an update: every tuned vector is a base vector, so none is an intruder."""
    values = matrix.base_singular_values[: len(matrix.vectors)]
    return dataclasses.replace(
        matrix,
        vectors=[Vector(at, value, (1.0, 1.0), False, "overlap", False) for at, value in enumerate(values)],
        update=UpdateSize(0.0, 0.0, math.nan, 0.0, math.nan),
        similarity=np.eye(len(matrix.similarity), len(values), dtype=np.float32),
        subspaces=None,
    )


def _same_base(first: Audit, other: Audit) -> bool:
    """Return whether the leading singular values of the bases agree: paths alone cannot tell."""
    return all(
        math.isclose(mine.base_singular_values[0], theirs.base_singular_values[0], rel_tol=SAME_VALUE)
        for mine, theirs in zip(first.matrices, other.matrices, strict=True)
        if mine.base_singular_values and theirs.base_singular_values
    )


def labels_for(audits: Sequence[Audit]) -> list[str]:
    """Name each audit shortly: by its tuned source without the folders that all sources share."""
    sources = [audit.tuned_source.rstrip("/") for audit in audits]
    if len(set(sources)) < len(sources):
        return [f"{i + 1}: {source}" for i, source in enumerate(sources)]
    parts = [source.split("/") for source in sources]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


_MOST_SIMILARITIES = 24  # audits whose similarity matrices are shown


def comparison_figures(shared: Shared, labels: Sequence[str]) -> list[Chart | Grid]:
    audits, k, epsilon = shared.audits, shared.k, shared.epsilon
    inside = [by_layer_of(audit) for audit in audits]
    layers = sorted(inside[0])
    by_epsilon = [[audit.count(k, at) for at in EPSILONS] for audit in audits]
    x = Axis("epsilon", "epsilon", limits=(0.0, 1.0))
    figures: list[Chart | Grid] = [_over(x, EPSILONS, labels, by_epsilon, [Rule("x", epsilon)])]
    by_k = [[audit.count(at, epsilon) for at in range(1, k + 1)] for audit in audits]
    x = Axis("k", "k, leading vectors examined")
    figures.append(_over(x, range(1, k + 1), labels, by_k, [Rule("x", k)]))
    if layers:
        counts = [[own[layer].count(k, epsilon) for layer in layers] for own in inside]
        figures.append(_over(Axis("layer", "layer"), layers, labels, counts))
    figures += [_over_rank(shared, labels), effective_ranks(audits, labels)]
    return [*figures, *similarities(audits, labels)]


def by_layer_of(audit: Audit) -> dict[int, Audit]:
    """Return the audit of every layer alone; matrices outside of layers are in none."""
    inside: dict[int, list[AuditedMatrix]] = {}
    paths = module_paths([matrix.name for matrix in audit.matrices])
    for matrix, path in zip(audit.matrices, paths, strict=True):
        if path.layer is not None:
            inside.setdefault(path.layer, []).append(matrix)
    return {layer: dataclasses.replace(audit, matrices=matrices) for layer, matrices in inside.items()}


def _over(
    x: Axis,
    steps: Sequence[float],
    labels: Sequence[str],
    counts: Sequence[Sequence[tuple[int, int]]],
    rules: Sequence[Rule] = (),
) -> Chart:
    """Return a line of intruders for each audit; ``counts`` has (at least, at most) for every audit and step."""
    plural_of = {"epsilon": "epsilon", "k": "k", "layer": "layers"}[x.column]
    lines = [
        counted(label, list(steps), own, tone)
        for tone, (label, own) in enumerate(zip(labels, counts, strict=True))
    ]
    caption = (
        "One line for each audit. Where the proved bounds on the max cosines leave a count open, a band shows its "
        "bounds."
    )
    title = f"Intruders over {plural_of}"
    return Chart(f"over-{plural_of}", title, x, COUNT, lines, rules, caption, in_order=_order(labels))


def _order(labels: Sequence[str]) -> str:
    return "audit, in the order given" if len(labels) > MANY else ""


def update_rank(audit: Audit) -> int | None:
    """Return the largest rank of the audit's updates; None if one of them came as a dense matrix."""
    ranks = [matrix.rank for matrix in audit.matrices]
    known = [rank for rank in ranks if rank is not None]
    return max(known) if known and len(known) == len(ranks) else None


def _over_rank(shared: Shared, labels: Sequence[str]) -> Chart:
    ranks = [update_rank(audit) for audit in shared.audits]
    known = sorted({rank for rank in ranks if rank is not None})
    ticks = [str(rank) for rank in known] + ["full"] * (None in ranks)
    order, last = _order(labels), len(labels) - 1
    series = []
    for i, (audit, label, rank) in enumerate(zip(shared.audits, labels, ranks, strict=True)):
        # Many audits of one rank would lie on one another: they are put side by side in their order.
        aside = 0.7 * (i / last - 0.5) if order else 0.0
        at = [(len(known) if rank is None else known.index(rank)) + aside]
        least, most = audit.count(shared.k, shared.epsilon)
        series.append(Series(label, at, [least], [least], [most], tone=i))
    caption = "One mark for each audit, at the largest rank of an update that is stored as low-rank factors."
    caption += " Audits of one rank are side by side in the order given." if order else ""
    x = Axis("rank", "rank of the update", ticks=ticks)
    return Chart("over-rank", "Intruders over rank", x, COUNT, series, caption=caption, in_order=order)


def effective_ranks(audits: Sequence[Audit], labels: Sequence[str]) -> Chart:
    low, middle, high = (list(ends) for ends in zip(*map(_quartiles, audits), strict=True))
    series = Series("median", middle, range(len(audits)), x_low=low, x_high=high)
    least, most = np.nanmin(low), np.nanmax(high)
    # Of rank-1 updates, which differ by rounding alone, the axis would be as narrow as the rounding.
    limits = (float(least) / 1.1, float(most) * 1.1) if most < 1.1 * least else None
    return Chart(
        "effective-ranks",
        "Effective rank of the updates",
        Axis("effective_rank", "effective rank of the update", log=True, limits=limits),
        Axis("audit", "", ticks=labels),
        [series],
        caption="The median over the matrices of each audit, with the first and the third quartile.",
    )


def _quartiles(audit: Audit) -> list[float]:
    ranks = np.array([matrix.update.effective_rank for matrix in audit.matrices])
    known = ranks[np.isfinite(ranks)]
    return np.quantile(known, (0.25, 0.5, 0.75)).tolist() if len(known) else [math.nan] * 3


def most_different(audits: Sequence[Audit]) -> int:
    spreads = [
        max(counts) - min(counts)
        for counts in zip(*([matrix.intruders for matrix in audit.matrices] for audit in audits), strict=True)
    ]
    return spreads.index(max(spreads))


def similarities(audits: Sequence[Audit], labels: Sequence[str]) -> list[Grid]:
    """Return the similarities of one matrix in every audit, or in evenly chosen ones of more than fit in a page."""
    at = most_different(audits)
    grids = []
    for i in evenly(len(audits), _MOST_SIMILARITIES):
        matrix = audits[i].matrices[at]
        title = f"{labels[i]}: {plural(matrix.intruders, 'intruder')} in {matrix.name}"
        grids.append(similarity(matrix, labels[i], title))
    return grids


def compared_rows(shared: Shared, labels: Sequence[str]) -> list[list[str]]:
    """Return the rows of the page's table: the numbers of every audit, at one k and epsilon for all."""
    rows = []
    for audit, label in zip(shared.audits, labels, strict=True):
        kept = [vector for matrix in audit.matrices for vector in matrix.vectors if vector.index < shared.k]
        is_own = audit.epsilon == shared.epsilon
        are_intruders = [(v.intruder if is_own else v.is_intruder_at(shared.epsilon)) is True for v in kept]
        energy = percent(energy_share_of([vector.singular_value for vector in kept], are_intruders))
        rank = update_rank(audit)
        least, most = audit.count(shared.k, shared.epsilon)
        count = f"{least:,}" if least == most else f"{least:,}–{most:,}"
        sizes = [number(update_norm(audit.matrices)), percent(median_relative(audit.matrices))]
        names = [label, audit.tuned_kind, "full" if rank is None else str(rank)]
        rows.append([*names, count, energy, *sizes, number(_quartiles(audit)[1])])
    return rows


def render_comparison(audits: Sequence[Audit]) -> str:
    """Return the HTML text of the report of several audits, on the :func:`common_matrices` of them."""
    shared = common_matrices(audits)
    names = labels_for(audits)
    made_by: dict[str, list[str]] = {}  # every set of versions once, with the audits made by it
    for name, audit in zip(names, audits, strict=True):
        versions = ", ".join(f"{key} {value}" for key, value in audit.versions.items())
        made_by.setdefault(versions, []).append(name)
    return render_figures(
        "compare.html.j2",
        comparison_figures(shared, names),
        shared=shared,
        rows=compared_rows(shared, names),
        matrix=shared.audits[0].matrices[most_different(shared.audits)].name,
        audits=list(zip(names, audits, strict=True)),
        versions_of=list(made_by.items()),
    )
