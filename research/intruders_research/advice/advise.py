"""Advice on a study, from its analyses."""

from __future__ import annotations

import os

from intruders.errors import SettingError
from intruders.studies.results import load_results
from intruders.system.files import user_path

from .advised import Advised
from .on_study import advise_study


def advise(study: str | os.PathLike[str]) -> Advised:
    """Suggest what to change, with evidence that is clear over the study's seeds.

    Raises:
      SettingError: the study has no runs.
      ResultFileError: it is not the folder of a study, or a saved result is broken.
    """
    path = user_path(os.fspath(study))
    results = load_results(path)
    if results.runs.empty:
        raise SettingError(f"the study in '{path}' has no runs yet; run it with intruders study")
    return Advised(str(path), *advise_study(results))
