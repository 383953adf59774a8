"""Five sentences on all effects of a folder: what is supported, what is contradicted, and what is undecided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from intruders.system.words import plural

from ..claims.shared.claim import CONTRADICTED, REPORTED, SUPPORTED
from .study_effect import StudyEffect


@dataclass(frozen=True)
class _Topic:
    statement: str
    claims: tuple[str, ...]


_TOPICS = (
    _Topic("LoRA leaves more intruders, or forgets more, than full fine-tuning at one score", ("structure",)),
    _Topic(
        "Rate, rank, size and duration change the intruders and the spectrum of the update as claimed",
        ("causes", "rank", "dynamics", "threshold"),
    ),
    _Topic(
        "Intruders or KL identify the runs and matrices that forget more",
        ("forgetting", "predictors", "places"),
    ),
    _Topic("Scaling intruders down, or another remedy, saves forgetting", ("intervention", "remedies")),
    _Topic("In a sequence of tasks, low ranks and LoRA forget more, and intruders accumulate", ("sequence",)),
)


def conclusions(effects: Sequence[StudyEffect]) -> list[str]:
    """Return one Markdown line per topic, with the number of effects of every verdict.

    Effects without an expected sign are not counted. Of those at equal score and at equal tuning effort, the ones that
    are supported are counted apart.
    """
    return [f"- {_sentence(topic, effects)}" for topic in _TOPICS]


def _sentence(topic: _Topic, effects: Sequence[StudyEffect]) -> str:
    own = [effect for effect in effects if effect.claim in topic.claims and effect.verdict != REPORTED]
    if not own:
        return f"**{topic.statement}:** no effect was measured."
    verdicts = [effect.verdict for effect in own]
    supported, contradicted = verdicts.count(SUPPORTED), verdicts.count(CONTRADICTED)
    studies = len({effect.study for effect in own})
    fair = [effect for effect in own if effect.equal_score != "no" and effect.equal_effort == "yes"]
    fairly = sum(effect.verdict == SUPPORTED for effect in fair)
    text = (
        f"**{topic.statement}:** {supported} of {plural(len(own), 'effect')} in {plural(studies, 'study', 'studies')} "
        f"support it, {contradicted} contradict it, and {len(own) - supported - contradicted} are undecided."
    )
    if fair:
        text += f" At equal score and equal tuning effort, {fairly} of {len(fair)} support it."
    return text
