"""A study in two sentences: one for a person who decides, one for a person who wants the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from intruders.studies.results import Results
from intruders.system.words import number, plural

from ..claims.every_claim import every_claim
from ..claims.shared.claim import DECISIONS, NOT_RUN, SUPPORTED, Finding
from .effect_rows import effect_text, leading_effects

_DEFINED = (
    "Intruder dimensions are new leading directions in a model's weights, close to none that it had before "
    "fine-tuning."
)
# The first claims that are shown make the sentence.
_MOST_MEANINGS = 3
# More values of a setting are counted instead of listed.
_MOST_VALUES = 6


@dataclass(frozen=True)
class Words:
    title: str
    plain: str
    precise: str


def study_words(results: Results, findings: Sequence[Finding]) -> Words:
    """Return the title, the sentence for a manager, and the one for a researcher."""
    runs = results.runs
    name = results.name or results.folder.name
    done, planned = int((runs["status"] == "finished").sum()), plural(len(runs), "run")
    finished = planned if done == len(runs) else f"{done:,} of {planned} finished"
    return Words(
        title=f"Study {name}: {finished}, {plural(len(findings), 'question')}",
        plain=_plain(findings),
        precise=_precise(runs, findings),
    )


def _plain(findings: Sequence[Finding]) -> str:
    supported = {finding.name for finding in findings if finding.decision == SUPPORTED}
    meanings = [claim.meaning for claim in every_claim() if claim.name in supported][:_MOST_MEANINGS]
    number_of = {word: sum(finding.decision == word for finding in findings) for word in DECISIONS}
    if number_of[NOT_RUN] == len(findings):
        return "These runs cannot tell yet: each question below says what it needs."
    counts = f"Of {plural(len(findings), 'claim')} about them, " + _listed(
        [f"{count} {_is(count)} {word}" for word, count in number_of.items() if count]
    )
    others = [answer for finding in findings if finding.name not in supported for answer in finding.answers]
    parts = sum(answer.decision == SUPPORTED for answer in others)
    if parts:
        counts += f". Of the {len(others)} effects of claims without support, {parts} {_is(parts)} supported"
    if not meanings:
        return f"{_DEFINED} These runs support none of the claims. {counts}."
    return f"{_DEFINED} In these runs, {_listed(meanings)}. {counts}."


def _precise(runs: pd.DataFrame, findings: Sequence[Finding]) -> str:
    states = runs["status"].value_counts()
    counts = ", ".join(
        f"{int(states[state]):,} {state}" for state in ("finished", "failed", "pending") if state in states
    )
    trained = runs[runs["kind"] != "random-rank-one"]
    parts = [
        f"{plural(len(runs), 'run')} ({counts})",
        _values("base", trained["base"]),
        _values("task", trained["task"].dropna().str.split(",").explode()),
        _values("seed", runs["seed"]),
        _values("k", runs["k"], "k ="),
        _values("epsilon", runs["epsilon"], "ε ="),
    ]
    leading = [
        effect
        for finding in findings
        for effect in leading_effects(finding)
        if effect.interval.has_ends and finding.decision != NOT_RUN
    ]
    effects = "; ".join(f"{effect.name} {effect_text(effect)}" for effect in leading[:_MOST_MEANINGS])
    if len(leading) > _MOST_MEANINGS:
        effects += f"; and {len(leading) - _MOST_MEANINGS} more below"
    said = "; ".join(part for part in parts if part)
    return f"{said}." + (f" Effects with 95 % intervals: {effects}." if effects else "")


def _values(noun: str, column: "pd.Series[Any]", name: str = "") -> str:
    """Return the different values of a setting with its name: bases smollm2-135m and minilm-l6."""
    texts = [_text(value) for value in sorted(column.dropna().unique())]
    if not texts:
        return ""
    if len(texts) > _MOST_VALUES:
        return f"{len(texts)} {noun}s"
    name = name or (noun if len(texts) == 1 else f"{noun}s")
    return f"{name} {_listed(texts)}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # A seed is a name: rounded to three digits it would be another one.
    return str(int(value)) if float(value).is_integer() else number(float(value))


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
