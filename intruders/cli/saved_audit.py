"""``--audit FILE``: a saved audit in place of one to make."""

from __future__ import annotations

from pathlib import Path

from ..audits.audit_settings import AuditSettings, refuse_beside_saved


def audit_or_settings(audit: Path | None, settings: AuditSettings) -> Path | AuditSettings:
    """Return the saved audit, or the settings of one to make.

    Raises:
      SettingError: a saved audit is given with settings of another, which would be ignored.
    """
    if audit is None:
        return settings
    refuse_beside_saved(settings, f"the audit '{audit}'")
    return audit
