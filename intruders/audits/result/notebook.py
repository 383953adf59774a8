"""An audit as a notebook shows it: the totals and the kinds of module, as a small table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...system.words import number, percent, plural
from .records import AuditedMatrix, energy_share
from .summary import by_kind, update_norm


def audit_as_html(sources: str, matrices: Sequence[AuditedMatrix], k: int, epsilon: float) -> str:
    """A table in the notebook's own style; every name is escaped."""
    vectors = [vector for matrix in matrices for vector in matrix.vectors]
    totals = (
        f"{plural(sum(vector.intruder for vector in vectors), 'intruder dimension')} in "
        f"{plural(len(vectors), 'vector')} of {plural(len(matrices), 'matrix', 'matrices')}, "
        f"energy share {percent(energy_share(vectors))}, update norm {number(update_norm(matrices))}; "
        f"k = {k}, epsilon = {epsilon:g}"
    )
    titles = (
        "module",
        "matrices",
        "intruders",
        "energy share",
        "update norm",
        "relative update",
        "effective rank",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = "".join(
        f"<tr><td>{escape(kind.kind)}</td><td>{kind.matrices}</td><td>{kind.intruders}</td>"
        f"<td>{percent(kind.energy_share)}</td><td>{number(kind.frobenius)}</td>"
        f"<td>{percent(kind.relative_update)}</td><td>{number(kind.effective_rank)}</td></tr>"
        for kind in by_kind(matrices)
    ).replace("<0.1 %", "&lt;0.1 %")
    return (
        f"<div><p>{escape(sources)}<br><strong>{escape(totals)}</strong></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
