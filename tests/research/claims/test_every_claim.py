"""The analyses on made-up studies: the effect planted, absent or reversed, one seed, gaps, failures, nothing at all."""

import dataclasses
import math
import random
from functools import cache

import pandas as pd
import pytest

from intruders.studies.results import Results
from intruders.studies.tables import COLUMNS, typed
from intruders_research.claim_names import CLAIMS
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import NOT_RUN
from tests.research.claims.whole_study import finding_of, whole_study
from tests.research.planted import holds
from tests.studies.planted import study

# Rank, remedies and predictors have planted studies of their own.
WITH_ONE_SIGN = [name for name in CLAIMS if name not in ("rank", "remedies", "predictors")]


PLANTED = [
    *((name, 1.0, True, "supported") for name in WITH_ONE_SIGN),
    *((name, 0.0, False, "undecided") for name in CLAIMS if name != "rank"),
    *((name, -1.0, False, "contradicted") for name in WITH_ONE_SIGN),
]


@pytest.mark.parametrize(("name", "effect", "shown", "decision"), PLANTED)
def test_a_claim_is_shown_where_it_is_planted_and_not_where_nothing_or_the_opposite_is(
    name: str, effect: float, shown: bool, decision: str
) -> None:
    finding = finding_of(name, effect)
    assert (finding.shown, finding.decision) == (shown, decision)
    assert finding.verdict.startswith(decision.capitalize())
    for table in finding.tables.values():
        assert table.columns.is_unique
        assert list(table.index) == list(range(len(table)))
    if shown:
        assert {answer.decision for answer in finding.answers} == {"supported"}
        assert finding.seeds == 3
        assert "3 seeds" in finding.verdict
        assert finding.effects


def test_planted_sizes_are_found() -> None:
    found = {name: finding_of(name, 1.0) for name in CLAIMS}
    # 20 + 5 (4 - log2 r) intruders of 200 vectors: on average 15 per 100 over ranks 1 to 16, full none.
    assert holds(found["structure"].effects[0], 15.0)
    assert holds(found["rank"].effects[0], -2.5)
    # 2 points more per halving of the rank and later stage; two earlier tasks have two and one such: 1.5 times it.
    assert holds(found["sequence"].effects[0], -3.0)
    rate = next(e for e in found["causes"].effects if "learning rate" in e.name)
    assert holds(rate, 5.0)
    assert found["forgetting"].effects[0].estimate > 0.9
    assert found["threshold"].effects[0].estimate == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", CLAIMS)
def test_one_seed_has_no_interval_over_seeds(name: str) -> None:
    finding = finding_of(name, 1.0, seeds=1)
    assert finding.seeds == 1
    # Forgetting and threshold have an interval, over settings and over runs, which says nothing of other seeds.
    assert finding.shown is None
    assert finding.decision == "undecided"
    assert finding.verdict.startswith("Undecided (missing: ")
    assert "one seed" in finding.verdict
    assert any(answer.needed for answer in finding.answers)
    over_seeds = [effect for effect in finding.effects if "documents" not in effect.name]
    if name in ("structure", "rank", "sequence", "dynamics", "causes", "remedies"):
        assert not any(math.isfinite(effect.low) for effect in over_seeds)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_study_without_a_finished_run_has_no_effect(name: str) -> None:
    results = whole_study(1.0)
    for status in ("failed", "pending"):
        unfinished = dataclasses.replace(results, runs=results.runs.assign(status=status))
        (finding,) = analyse_all(unfinished, [name])
        assert (finding.decision, finding.shown, finding.effects) == (NOT_RUN, None, [])
        assert finding.verdict.startswith("Not run: this needs ")


@cache  # the analyses only read them
def with_gaps() -> tuple[Results, Results]:
    """The whole study with a third of all numbers missing, and with columns of nothing."""
    generator = random.Random(0)
    results = whole_study(1.0)
    frames: dict[str, pd.DataFrame] = {}
    keep = [
        "run_id", "kind", "status", "name", "base", "task", "seed", "step", "stage", "task_index", "method",
    ]  # fmt: skip
    for table in COLUMNS:
        frame = getattr(results, table).astype(object).copy()
        for column in frame.columns.difference(keep):
            gone = [generator.random() < 0.33 for _ in range(len(frame))]
            frame.loc[gone, column] = None
        frames[table] = typed(frame, table)
    blank = {
        table: typed(frame.assign(**dict.fromkeys(frame.columns.difference(keep), math.nan)), table)
        for table, frame in frames.items()
    }
    return Results(**{**vars(results), **frames}), Results(**{**vars(results), **blank})


@pytest.mark.parametrize("name", CLAIMS)
def test_gaps_everywhere_break_nothing(name: str) -> None:
    """No exception, and no number from nowhere."""
    third, all_missing = with_gaps()
    (finding,) = analyse_all(third, [name])
    # Of a statement without an effect there may be none left.
    numbers = [effect.estimate for effect in finding.effects]
    assert all(math.isfinite(number) for number in numbers)
    (nothing,) = analyse_all(all_missing, [name])
    assert (nothing.decision, nothing.effects) == (NOT_RUN, [])


def test_analyses_of_nothing_by_name_in_their_own_order() -> None:
    assert [f.name for f in analyse_all(study(), ["threshold", "rank"])] == ["rank", "threshold"]
    findings = analyse_all(study())
    assert [(f.name, f.decision, f.effects) for f in findings] == [(name, NOT_RUN, []) for name in CLAIMS]
