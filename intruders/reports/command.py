"""The command that makes an audit again."""

from __future__ import annotations

import shlex

from ..detection.table import Audit

_FLAGS = ("include_embeddings", "split_fused", "skip_non_finite")


def audit_command(audit: Audit) -> str | None:
    """A shell line with the audit's own settings; None for what came from Python, not from files."""
    if audit.tuned_kind not in ("adapter", "checkpoint"):
        return None
    parts = ["intruders", "audit", audit.base_source, audit.tuned_source]
    parts += ["--k", str(audit.k), "--epsilon", f"{audit.epsilon:g}"]
    for name in ("include", "exclude"):
        for pattern in audit.settings.get(name) or ():
            parts += [f"--{name}", str(pattern)]
    parts += [f"--{name.replace('_', '-')}" for name in _FLAGS if audit.settings.get(name)]
    if audit.exact:
        parts.append("--exact")
    return shlex.join(parts)
