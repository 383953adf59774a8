"""Running a study, with finished runs taken over from published tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intruders.studies import run_study as without_published
from intruders.studies.run_study import StudyOutcome
from intruders.studies.runs import expand
from intruders.studies.study import Study

from .published.take_over import plan_take_over


def run_study(
    study: Study, out: str | Path, *, published: str | Path | None = None, **options: Any
) -> StudyOutcome:
    """Run or resume a study as :func:`intruders.run_study` does.

    Args:
      study: The study, from :func:`intruders_research.read_study.read_study`.
      out: A folder, or a URL that fsspec can open.
      published: Folder of published tables, or of several studies' by name (default: none). Their finished runs are
        taken over if every setting is the same.
      options: Those of :func:`intruders.run_study`.

    Returns:
      The folder and the number of runs, as :func:`intruders.run_study`.

    Raises:
      IntrudersError: as :func:`intruders.run_study`.
      SettingError: not a single run can be taken over.
      ResultFileError: ``published`` is broken.
    """
    take_over = None if published is None else plan_take_over(published, expand(study), study.name)
    return without_published.run_study(study, out, take_over=take_over, **options)
