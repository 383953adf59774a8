"""``--audit FILE``: a saved audit in place of one to make."""

from __future__ import annotations

from pathlib import Path

from ..audits.audit_settings import AuditSettings
from ..errors import SettingError


def audit_or_settings(audit: Path | None, settings: AuditSettings) -> Path | AuditSettings:
    """Return the saved audit, or the settings of one to make.

    Raises:
      SettingError: a saved audit is given with settings of another, which would be ignored.
    """
    if audit is None:
        return settings
    for name, value in settings.changed().items():
        raise SettingError(
            f"{name} is {value!r}, and the audit '{audit}' was made with settings of its own; leave out --audit, or "
            f"--{name.replace('_', '-')}"
        )
    return audit
