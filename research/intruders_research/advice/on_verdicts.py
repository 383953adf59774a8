"""Verdicts of studies: evidence for advice on the same base, and notes for other bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from intruders.checkpoints.stored.locate import DEMO_MODELS
from intruders.errors import MissingDependencyError
from intruders.reports.advice import Advised
from intruders.studies.results import load_results
from intruders.studies.study_folder import StudyFolder
from intruders.system.files import user_path

from ..claims.causes import NUMBERS
from ..claims.every_claim import analyse_all
from ..claims.rank_series import PER_DOUBLING
from ..claims.shared.claim import UNDECIDED, Effect
from ..claims.shared.words import said, seeds_said

# The claims that each topic of advice rests on, with the words in the names of those effects that bear on it.
CLAIMS_OF_TOPIC = {
    "mitigation": {"intervention": ""},
    "rank": {"rank": PER_DOUBLING, "sequence": PER_DOUBLING},
    "scale": {"threshold": ""},
    "size of the update": {"threshold": ""},
    "learning rate": {"causes": NUMBERS["lr"]},
    "alpha rule": {"causes": NUMBERS["alpha_value"]},
}


@dataclass(frozen=True)
class StudyVerdict:
    """One answer of a study, with the claim that it is on."""

    folder: Path
    claim: str
    answer: Effect

    def __str__(self) -> str:
        answer = self.answer
        nothing = ", which says nothing" if answer.decision == UNDECIDED else ""
        return (
            f"'{self.folder}', {answer.where}: the claim {self.claim} is {answer.decision}{nothing}: "
            f"{answer.what} {said(answer.over_seeds, answer.digits)} ({seeds_said(answer.seeds)})"
        )


def with_verdicts(advised: Advised, bases: Sequence[str], folders: Sequence[Path]) -> Advised:
    """Add to the advice what studies found on the same base; the notes say which studies do not apply.

    Raises ResultFileError for a folder that is not a study.
    """
    verdicts = [verdict for folder in folders for verdict in verdicts_of(folder)]
    ours = [verdict for verdict in verdicts if any(is_on(verdict, base) for base in bases)]
    supported = [(advice, _bearing_on(advice.topic, ours)) for advice in advised.advice]
    used = [verdict for _, bearing in supported for verdict in bearing]
    notes = [str(verdict) for verdict in ours if verdict not in used]
    for folder in folders:
        of_folder = [verdict for verdict in verdicts if verdict.folder == folder]
        others = sorted(
            {replace(verdict.answer.on, part="").label for verdict in of_folder if verdict not in ours}
        )
        if others:
            notes.append(f"'{folder}' does not apply where it is of another base: {', '.join(others)}")
        elif not of_folder:
            notes.append(f"'{folder}' has no verdict yet: none of its claims could be answered")
    if any(verdict in ours for verdict in verdicts):
        notes.append("a verdict is of the task that it names; on another task it is a lead, and no evidence")
    advice = [
        replace(advice, evidence=[*advice.evidence, *map(str, bearing)]) for advice, bearing in supported
    ]
    return replace(advised, advice=advice, notes=[*advised.notes, *notes])


def verdicts_of(folder: Path) -> Iterator[StudyVerdict]:
    """Yield every answer on the claims that a study's file asks for."""
    asked = StudyFolder(folder).document().get("analyses")
    results = load_results(folder)
    for finding in analyse_all(results, asked):
        for answer in finding.answers:
            yield StudyVerdict(folder, finding.name, answer)


def is_on(verdict: StudyVerdict, base: str) -> bool:
    """Return True if a verdict is about this base: the same name, or the demo model at this path."""
    return bool(_names(verdict.answer.on.base) & _names(base))


def _names(base: str) -> set[str]:
    names = {base, str(user_path(base).resolve())}
    model = DEMO_MODELS.get(base)
    if model is not None:
        with suppress(MissingDependencyError, PackageNotFoundError):  # a study's base need not be here
            names |= {str(path.resolve()) for path in (model.packaged(), model.converted())}
    return names


def _bearing_on(topic: str, verdicts: Sequence[StudyVerdict]) -> list[StudyVerdict]:
    """Return the verdicts that advice on a topic rests on."""
    words = CLAIMS_OF_TOPIC.get(topic, {})
    return [
        verdict
        for verdict in verdicts
        if verdict.claim in words and words[verdict.claim] in verdict.answer.what
    ]
