"""The numbers that are logged at each audit, by their keys."""

from __future__ import annotations

from ...audits.result.audit_result import Audit
from ...audits.result.summary import by_kind, update_norm
from .text_loss import TextLoss


def totals_of_audit(audit: Audit) -> dict[str, float]:
    """Return the totals of an audit, each as the audit's own summary defines it."""
    kinds = {summary.kind: summary.intruders for summary in by_kind(audit.matrices)}
    return {
        "intruders/total": audit.intruders,
        "intruders/vectors": audit.vectors,
        "intruders/energy_share": audit.intruder_energy_share,
        "intruders/update_frobenius": update_norm(audit.matrices),
        "intruders/seconds": round(audit.seconds, 4),
        **{f"intruders/by_module/{kind}": count for kind, count in sorted(kinds.items())},
    }


def totals_of_text(text: TextLoss | None) -> dict[str, float]:
    """Return the loss on text, its rise over the base, and the share of the time that measuring it took."""
    if text is None or text.last is None or text.rise is None:
        return {}
    return {
        f"forgetting/{text.label}": text.rise,
        f"forgetting/{text.label}/loss": text.last,
        "forgetting/share_of_time": round(text.share_of_time, 4),
    }
