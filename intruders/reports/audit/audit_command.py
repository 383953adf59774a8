"""The command that makes an audit again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ...audits.command_line import is_from_files
from ...audits.result.audit_result import Audit
from ...checkpoints.stored.hub import HubOrigin, split_revision

_FLAGS = ("include_embeddings", "split_fused", "skip_non_finite")


def audit_command(audit: Audit) -> str | None:
    """Return a shell line with the audit's own settings; None for models from Python, not from files."""
    if not is_from_files(audit):
        return None
    parts = ["intruders", "audit"]
    parts += [_at_its_commit(audit.base_source, audit.base_hub)]
    parts += [_at_its_commit(audit.tuned_source, audit.tuned_hub)]
    parts += ["--k", str(audit.k), "--epsilon", f"{audit.epsilon:g}"]
    for name in ("include", "exclude"):
        for pattern in audit.settings.get(name) or ():
            parts += [f"--{name}", str(pattern)]
    parts += [f"--{name.replace('_', '-')}" for name in _FLAGS if audit.settings.get(name)]
    if audit.settings.get("base_dtype"):
        parts += ["--base-dtype", str(audit.settings["base_dtype"])]
    if audit.exact:
        parts.append("--exact")
    return shlex.join(parts)


def _at_its_commit(source: str, hub: Sequence[HubOrigin]) -> str:
    """Return a Hub id with the commit that was audited: tomorrow the branch may name another model."""
    asked = split_revision(source)
    if asked is None or len(hub) != 1 or asked[0] != hub[0].repository:
        return source
    return f"{hub[0].repository}@{hub[0].commit}"
