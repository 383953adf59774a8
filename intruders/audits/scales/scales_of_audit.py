"""The saved critical scales that belong to an audit: those of the same update and settings."""

from __future__ import annotations

import os
from pathlib import Path

from ...checkpoints.stored.locate import HubOrigin
from ...errors import SettingError
from ..result.audit_result import Audit
from .critical_scales_result import CriticalScales

SCALE_NAME = "scale.json"  # the name of the file that is looked for next to an audit


def scales_for(audit: Audit, path: str | os.PathLike[str]) -> CriticalScales:
    """Return the critical scales in ``path``.

    Raises:
      SettingError: they are of other matrices, or another k or epsilon, than the audit.
      ResultFileError: as :meth:`CriticalScales.load`.
    """
    scales = CriticalScales.load(path)
    if (scales.k, scales.epsilon) != (audit.k, audit.epsilon):
        raise SettingError(
            f"'{path}' was made with k = {scales.k} and epsilon = {scales.epsilon:g}, and the audit with "
            f"k = {audit.k} and epsilon = {audit.epsilon:g}; make it again with the audit's"
        )
    names = {matrix.name for matrix in audit.matrices}
    unknown = sorted(matrix.name for matrix in scales.matrices if matrix.name not in names)
    if unknown or not scales.matrices:
        raise SettingError(
            f"'{path}' has critical scales of {scales.tuned_source!r}, and the audit is of {audit.tuned_source!r}"
            + (f": it has no {unknown[0]!r}" if unknown else ", without any matrix")
        )
    return scales


def scales_beside(audit: Audit, folder: Path) -> CriticalScales | None:
    """Return the scales of scale.json in the audit's folder; None unless they are of the same update and settings."""
    file = folder / SCALE_NAME
    if not file.is_file():
        return None
    try:
        scales = scales_for(audit, file)
    except SettingError:
        return None
    same = (scales.base_source, scales.tuned_source) == (audit.base_source, audit.tuned_source)
    same = same and _may_be_equal(scales.base_hub, audit.base_hub)
    return scales if same and _may_be_equal(scales.tuned_hub, audit.tuned_hub) else None


def _may_be_equal(ours: tuple[HubOrigin, ...], theirs: tuple[HubOrigin, ...]) -> bool:
    """Return False for the models of one name whose commits are known and differ: a branch of the hub moves."""
    commits = [{(origin.repository, origin.commit) for origin in origins} for origins in (ours, theirs)]
    return not all(commits) or commits[0] == commits[1]
