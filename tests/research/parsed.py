"""Studies as research reads them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from intruders.studies import run_study as without_published
from intruders.studies.run_study import StudyOutcome
from intruders.studies.runs import expand
from intruders.studies.study import Study
from intruders_research.published.take_over import plan_take_over
from intruders_research.read_study import with_claims
from tests.studies import tiny_study


def parsed(document: dict[str, Any]) -> Study:
    """The study that a document describes, with what it says of claims checked."""
    return with_claims(tiny_study.parsed(document), "study 'file.yaml'")


def run_study(
    study: Study, out: str | Path, *, published: str | Path | None = None, **options: Any
) -> StudyOutcome:
    """Run a study as the command does, with finished runs taken over from published tables."""
    taken = None if published is None else plan_take_over(published, expand(study), study.name)
    if taken is None:
        return without_published.run_study(study, out, **options)
    outcome = without_published.run_study(study, out, take_over=taken.into, **options)
    return replace(outcome, refused=taken.refused)
