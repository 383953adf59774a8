"""Advice as ``intruders advise`` gives it, on a study too, and with the verdicts of other studies."""

from __future__ import annotations

import os
from collections.abc import Sequence

from intruders.audits.audit_settings import AuditSettings, refuse_beside_saved
from intruders.data.task import names_given
from intruders.errors import SettingError
from intruders.reports.advice import Advised
from intruders.reports.advise import advised_with_bases, is_there
from intruders.studies.results import load_results
from intruders.system.files import user_path
from intruders.system.progress import Progress, silent

from .on_study import advise_study
from .on_verdicts import with_verdicts


def advise(
    source: str | os.PathLike[str],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    studies: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    progress: Progress = silent,
) -> Advised:
    """Suggest what to change, as :func:`intruders.advise` does; for the folder of a study, from its analyses.

    Args:
      source: Path, Hub id or demo model; or the folder of a study.
      k: Number of top vectors to examine, in an audit or in the spectra of a base (default: 10).
      epsilon: Threshold on the max cosine, in (0, 1] (default: 0.5).
      studies: One or several folders of studies (default: none). The advice lists their verdicts on the same base, and
        the notes say which studies do not apply.
      progress: Function called with (stage, done, in all).

    Returns:
      The advice, each piece with its evidence; also notes, and for a tuned model the next steps.

    Raises:
      SettingError, CheckpointError, PairingError, NonFiniteError: as :func:`intruders.advise`; the study has no runs.
      ResultFileError: a saved result is broken, or an item of ``studies`` is not the folder of a study.
    """
    text, settings = os.fspath(source), AuditSettings(k=k, epsilon=epsilon)
    if is_there(user_path(text) / "study.json"):
        refuse_beside_saved(settings, f"'{text}'")
        advised, bases = _on_study(text)
    else:
        advised, bases = advised_with_bases(text, settings, progress)
    folders = [user_path(folder) for folder in names_given(studies)]
    return with_verdicts(advised, bases, folders) if folders else advised


def _on_study(text: str) -> tuple[Advised, list[str]]:
    path = user_path(text)
    results = load_results(path)
    if results.runs.empty:
        raise SettingError(f"the study in '{path}' has no runs yet; run it with intruders study")
    bases = sorted(results.runs["base"].dropna().unique())
    return Advised(str(path), "study", *advise_study(results)), bases
