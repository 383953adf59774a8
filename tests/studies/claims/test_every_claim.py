"""The analyses on made-up studies: the effect planted, absent or reversed, one seed, gaps, failures, nothing at all."""

from __future__ import annotations

import math
import random
from typing import Any

import pandas as pd
import pytest

from intruders.errors import SettingError
from intruders.studies.claims.every_claim import analyse_all
from intruders.studies.claims.shared.claim import Finding
from intruders.studies.describe.claim_names import CLAIMS
from intruders.studies.tables.results import Results, typed
from intruders.studies.tables.table_columns import COLUMNS
from tests.studies.planted import (
    fixed,
    holds,
    interventions,
    matched,
    noise,
    run,
    scales,
    sequence_study,
    study,
    trace,
)


def whole_study(effect: float, seeds: int = 3) -> Results:
    """A study with something for every analysis, the paper's claims planted with the sign of ``effect``."""
    rows = matched(effect=effect, seeds=seeds)
    parts = []
    for row in rows:
        row["kl_prompts"] = 1 + effect * row["loss_change"] + 0.1 * (effect == 0) * noise("kl", row["run_id"])
        parts += attributed(row["run_id"], effect)
    tasks = sequence_study(effect=effect, seeds=seeds)
    traces, slower = [], []
    counts = {1.0: [0, 2, 4, 6], 0.0: [5, 5, 5, 5], -1.0: [6, 4, 2, 1]}[effect]
    for seed in range(seeds):
        for rank in (1, 16):
            values = [8 + effect * at + noise(seed, at, rank, size=0.3) for at in range(4)]
            traces += trace(f"tiny-words-lora-{rank}-{seed}", counts, [1, 2, 3, 4], values)
        others = {1.0: [0, 0, 1, 1], 0.0: [5, 5, 5, 5], -1.0: [9, 9, 9, 9]}[effect]
        traces += trace(f"tiny-words-full-{seed}", others, [1.5, 2.5, 3.5, 4.5], [1.0] * 4)
        for lr in (1e-4, 1e-3):
            count = 30 + round(effect * 10 * (lr > 5e-4) + noise(lr, seed))
            slower.append(fixed(f"lr-{lr}-{seed}", seed=seed, lr=lr, intruders=count))
        count = 30 + round(noise("b", seed))
        slower.append(fixed(f"b-{seed}", seed=seed, lr=1e-3, method="b-only", intruders=count))
    mechanism, drawn = random_terms(effect, seeds)
    matrices = [row for of in rows for row in scales(of["run_id"], quality=max(effect, 0.0))]
    if effect < 0:
        for row in matrices:
            row["predicted_scale"] = 1 / row["critical_scale"]
    return study(
        runs=rows + tasks["runs"] + slower + drawn,
        sequences=tasks["sequences"],
        interventions=interventions(rows, change=-0.3 * effect, against=0.2 * effect),
        traces=traces,
        mechanism=mechanism,
        matrices=matrices,
        attributions=parts,
    )


def attributed(run_id: str, effect: float) -> list[dict[str, Any]]:
    """The matrices of a model, whose parts of the loss rise follow their intruders with that sign."""
    return [
        {
            "run_id": run_id,
            "name": f"layers.{number}.up_proj",
            "corpus": "pydoc",
            "part": effect * (number % 5) + noise(run_id, number, size=0.5),
            "part_of_intruders": 0.1,
            "intruders": number % 5,
            "frobenius": 1 + noise("norm", run_id, number, size=0.1),
            "rise": 10.0,
        }
        for number in range(30)
    ]


def random_terms(effect: float, seeds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    drawn = [run(f"term-{s}", kind="random-rank-one", seed=s, task=None, method=None) for s in range(seeds)]
    rows = []
    for seed in range(seeds):
        for i in range(10):
            for multiple in (0.1, 0.2, 0.5, 1.0, 2.0):
                above = multiple > 0.4 + noise(seed, i, size=0.1)
                has = (
                    above
                    if effect > 0
                    else not above
                    if effect < 0
                    else random.Random(f"{seed}{i}{multiple}").random() < 0.5
                )
                rows.append(
                    {
                        "run_id": f"term-{seed}",
                        "name": f"layers.{i}.q_proj.weight",
                        "multiple": multiple,
                        "predicted_multiple": 0.4,
                        "intruders": int(has),
                    }
                )
    return rows, drawn


@pytest.fixture(scope="module")
def planted() -> dict[float, dict[str, Finding]]:
    return {
        effect: {finding.name: finding for finding in analyse_all(whole_study(effect))}
        for effect in (1.0, 0.0, -1.0)
    }


# Rank, remedies and predictors have planted studies of their own.
WITH_ONE_SIGN = [name for name in CLAIMS if name not in ("rank", "remedies", "predictors")]


@pytest.mark.parametrize("name", WITH_ONE_SIGN)
def test_a_planted_claim_is_shown(planted: dict[float, dict[str, Finding]], name: str) -> None:
    finding = planted[1.0][name]
    assert finding.shown is True
    assert finding.decision == "supported"
    assert finding.verdict.startswith("Supported: ")
    assert {answer.decision for answer in finding.answers} == {"supported"}
    assert finding.seeds == 3
    assert finding.effects
    assert "(3 seeds)" in finding.verdict or "3 seeds" in finding.verdict


@pytest.mark.parametrize("name", [name for name in CLAIMS if name != "rank"])
def test_where_nothing_is_planted_nothing_is_shown(
    planted: dict[float, dict[str, Finding]], name: str
) -> None:
    finding = planted[0.0][name]
    assert finding.shown is False
    assert finding.decision == "undecided"
    assert finding.verdict.startswith("Undecided")


@pytest.mark.parametrize("name", WITH_ONE_SIGN)
def test_the_opposite_is_not_shown(planted: dict[float, dict[str, Finding]], name: str) -> None:
    finding = planted[-1.0][name]
    assert finding.shown is False
    assert finding.decision == "contradicted"
    assert finding.verdict.startswith("Contradicted")


def test_planted_sizes_are_found(planted: dict[float, dict[str, Finding]]) -> None:
    found = planted[1.0]
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
def test_one_seed_has_no_interval_over_seeds_and_says_so(name: str) -> None:
    (finding,) = analyse_all(whole_study(1.0, seeds=1), [name])
    assert "one seed" in finding.verdict
    assert finding.seeds == 1
    # Forgetting and threshold have an interval, over settings and over runs, which says nothing of other seeds.
    assert finding.shown is None
    assert finding.decision == "undecided"
    assert finding.verdict.startswith("Undecided (missing: ")
    over_seeds = [effect for effect in finding.effects if "documents" not in effect.name]
    if name in ("structure", "rank", "sequence", "dynamics", "causes", "remedies"):
        assert not any(math.isfinite(effect.low) for effect in over_seeds)


@pytest.mark.parametrize("name", CLAIMS)
def test_an_empty_study_says_what_it_would_need(name: str) -> None:
    (finding,) = analyse_all(study(), [name])
    assert finding.shown is None
    assert finding.verdict.startswith("Not run: this needs ")
    assert finding.effects == []


@pytest.mark.parametrize("name", CLAIMS)
def test_failed_and_pending_runs_count_for_nothing(name: str) -> None:
    results = whole_study(1.0)
    for status in ("failed", "pending"):
        runs = results.runs.assign(status=status)
        (finding,) = analyse_all(Results(**{**vars(results), "runs": runs}), [name])
        assert finding.verdict.startswith("Not run: this needs ")


@pytest.mark.parametrize("name", CLAIMS)
def test_gaps_everywhere_break_nothing(name: str) -> None:
    """A third of all numbers missing, and columns of nothing: no exception, and no number from nowhere."""
    generator = random.Random(0)
    results = whole_study(1.0)
    frames: dict[str, pd.DataFrame] = {}
    keep = {
        "run_id",
        "kind",
        "status",
        "name",
        "base",
        "task",
        "seed",
        "step",
        "stage",
        "task_index",
        "method",
    }
    for table in COLUMNS:
        frame = getattr(results, table).astype(object).copy()
        for column in frame.columns.difference(list(keep)):
            gone = [generator.random() < 0.33 for _ in range(len(frame))]
            frame.loc[gone, column] = None
        frames[table] = typed(frame, table)
    (finding,) = analyse_all(Results(**{**vars(results), **frames}), [name])
    assert finding.verdict
    blank = {
        table: typed(frame.assign(**dict.fromkeys(frame.columns.difference(list(keep)), math.nan)), table)
        for table, frame in frames.items()
    }
    (nothing,) = analyse_all(Results(**{**vars(results), **blank}), [name])
    assert nothing.verdict.startswith("Not run: ")


def test_tables_are_tidy_and_named() -> None:
    for finding in analyse_all(whole_study(1.0)):
        for title, table in finding.tables.items():
            assert title
            assert table.columns.is_unique
            assert list(table.index) == list(range(len(table)))


def test_analyses_by_name_in_their_own_order() -> None:
    assert [f.name for f in analyse_all(study(), ["threshold", "rank"])] == ["rank", "threshold"]
    assert [f.name for f in analyse_all(study())] == CLAIMS
    with pytest.raises(SettingError, match="'forgeting' is not known; did you mean 'forgetting'"):
        analyse_all(study(), ["forgeting"])
