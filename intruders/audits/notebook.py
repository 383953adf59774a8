"""An audit as a notebook shows it: the totals and the kinds of module, as a small table."""

from __future__ import annotations

from html import escape

from ..charts.text import number, percent, plural
from .audit_result import Audit
from .summary import by_kind, update_norm


def audit_as_html(audit: Audit) -> str:
    """A table in the notebook's own style; every name is escaped."""
    sources = f"{audit.base_source} → {audit.tuned_source} ({audit.tuned_kind})"
    totals = (
        f"{plural(audit.intruders, 'intruder dimension')} in {plural(audit.vectors, 'vector')} of "
        f"{plural(len(audit.matrices), 'matrix', 'matrices')}, "
        f"energy share {percent(audit.intruder_energy_share)}, "
        f"update norm {number(update_norm(audit.matrices))}; "
        f"k = {audit.k}, epsilon = {audit.epsilon:g}"
    )
    titles = ("module", "matrices", "intruders", "energy share", "update norm", "of base", "effective rank")
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = "".join(
        f"<tr><td>{escape(kind.kind)}</td><td>{kind.matrices}</td><td>{kind.intruders}</td>"
        f"<td>{percent(kind.energy_share)}</td><td>{number(kind.frobenius)}</td>"
        f"<td>{percent(kind.relative_update)}</td><td>{number(kind.effective_rank)}</td></tr>"
        for kind in by_kind(audit)
    ).replace("<0.1 %", "&lt;0.1 %")
    return (
        f"<div><p>{escape(sources)}<br><strong>{escape(totals)}</strong></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
