"""The origin of a study's tables, if they were published, and their deviations from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from intruders.errors import ResultFileError
from intruders.studies.study_folder import PUBLISHED, RunRecord
from intruders.system.words import plural

from ..published.publish import DEVIATIONS
from ..published.published_study import PublishedStudy


@dataclass(frozen=True)
class PublishedWords:
    """Sentences for the page, and lines of a list."""

    sentences: str
    deviations: list[str]


def published_words(folder: Path) -> PublishedWords | None:
    """Return what to tell of published tables, or of runs taken over from them; None if all runs were made here.

    Raises:
      ResultFileError: published tables are damaged.
    """
    if (folder / PUBLISHED).is_file():
        return _of_published(PublishedStudy.load(folder))
    taken = sum(RunRecord(run.parent).is_taken_over for run in folder.glob("runs/*/run.json"))
    if not taken:
        return None
    return PublishedWords(f"The rows of {plural(taken, 'run')} were taken over from published tables.", [])


def _of_published(published: PublishedStudy) -> PublishedWords:
    file = published.folder / DEVIATIONS
    try:
        written = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ResultFileError(f"cannot read '{file}': {error}; save it as UTF-8 text") from error
    deviations = [
        *published.deviations,
        *(line.strip().removeprefix("- ") for line in written if line.strip()),
    ]
    sentences = (
        f"Published on {published.date}, with {plural(len(published.runs), 'finished run')}. The SHA-256 of the study "
        f"file is {published.study_digest}."
    )
    if not deviations:
        sentences += " The records show no deviation from the file."
    return PublishedWords(sentences, deviations)
