"""The analyses on made-up studies: the effect planted, absent or reversed, one seed, gaps, failures, nothing at all."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest

from intruders.errors import SettingError
from intruders.studies.claim_names import CLAIMS
from intruders.studies.claims import sequence
from intruders.studies.claims.claim import Finding
from intruders.studies.claims.every_claim import analyse_all, charts_of
from intruders.studies.claims.rank_series import valley
from intruders.studies.claims.shared.comparable_runs import complete, noted_complete, setting_of
from intruders.studies.tables.results import Results
from intruders.studies.tables.table_columns import COLUMNS

from .planted import interventions, matched, noise, run, scales, sequence_study, study, trace


def whole_study(effect: float, seeds: int = 3) -> Results:
    """A study with something for every analysis, the paper's claims planted with the sign of ``effect``."""
    rows = matched(effect=effect, seeds=seeds)
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
    )


def fixed(run_id: str, **changes: Any) -> dict[str, Any]:
    """A run of another task, trained for a fixed number of steps."""
    return run(run_id, task="other", match=None, stopped_by="steps") | changes


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


WITHOUT_RANK_AND_REMEDIES = [name for name in CLAIMS if name not in ("rank", "remedies")]


@pytest.mark.parametrize("name", WITHOUT_RANK_AND_REMEDIES)
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


@pytest.mark.parametrize("name", WITHOUT_RANK_AND_REMEDIES)
def test_the_opposite_is_not_shown(planted: dict[float, dict[str, Finding]], name: str) -> None:
    finding = planted[-1.0][name]
    assert finding.shown is False
    assert finding.decision == "contradicted"
    assert finding.verdict.startswith("Contradicted")


def test_planted_sizes_are_found(planted: dict[float, dict[str, Finding]]) -> None:
    found = planted[1.0]
    # 20 + 5 (4 - log2 r) intruders of 200 vectors: on average 15 per 100 over ranks 1 to 16, full none.
    assert _holds(found["structure"].effects[0], 15.0)
    assert _holds(found["rank"].effects[0], -2.5)
    # 2 points more per halving of the rank and later stage; two earlier tasks have two and one such: 1.5 times it.
    assert _holds(found["sequence"].effects[0], -3.0)
    rate = next(e for e in found["causes"].effects if "learning rate" in e.name)
    assert _holds(rate, 5.0)
    assert found["forgetting"].effects[0].estimate > 0.9
    assert found["threshold"].effects[0].estimate == pytest.approx(0.5, abs=0.03)


def _holds(effect: Any, truth: float) -> bool:
    return bool(effect.low <= truth <= effect.high)


@pytest.mark.parametrize("name", CLAIMS)
def test_one_seed_has_no_interval_over_seeds_and_says_so(name: str) -> None:
    (finding,) = analyse_all(whole_study(1.0, seeds=1), [name])
    assert "one seed" in finding.verdict
    assert finding.seeds == 1
    if name not in ("forgetting", "threshold"):  # over settings and over runs there is an interval
        assert finding.shown is None
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
        frames[table] = frame
    (finding,) = analyse_all(Results(**{**vars(results), **frames}), [name])
    assert finding.verdict
    blank = {
        table: frame.assign(**dict.fromkeys(frame.columns.difference(list(keep)), math.nan))
        for table, frame in frames.items()
    }
    (nothing,) = analyse_all(Results(**{**vars(results), **blank}), [name])
    assert nothing.verdict.startswith("Not run: ")


def test_bases_and_tasks_are_never_mixed() -> None:
    """Two bases, each without any effect of its own, whose levels together would show a strong one."""
    rows = matched(effect=0.0, base="small")
    for row in matched(effect=0.0, base="large"):
        rows.append(row | {"intruders": row["intruders"] + 100, "loss_change": row["loss_change"] + 1})
    (finding,) = analyse_all(study(runs=rows), ["forgetting"])
    assert finding.shown is False
    assert "large on words" in finding.verdict
    assert "small on words" in finding.verdict
    assert len([e for e in finding.effects if "Spearman of intruders and loss change" in e.name]) == 2


def test_one_base_with_the_effect_does_not_show_it_for_the_other() -> None:
    rows = matched(effect=1.0, base="yes") + matched(effect=-1.0, base="no")
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.shown is False
    assert finding.verdict.startswith("Contradicted in part: ")
    assert {answer.where: answer.decision for answer in finding.answers} == {
        "yes on words": "supported",
        "no on words": "contradicted",
    }


def test_runs_that_missed_the_score_are_left_out_and_counted() -> None:
    rows = matched(effect=1.0)
    for row in rows[:4]:
        row |= {"stopped_by": "steps", "intruders": 0}
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.runs == len(rows) - 4
    assert any(f"4 of {len(rows)} runs did not reach accuracy=0.90" in note for note in finding.notes)


def test_without_a_match_criterion_accuracies_must_agree() -> None:
    rows = [row | {"match": None, "stopped_by": "steps"} for row in matched(effect=1.0)]
    for row in rows[:5]:
        row |= {"accuracy": 0.5, "accuracy_low": 0.45, "accuracy_high": 0.55}
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.runs == len(rows) - 5
    assert any("agree within their intervals" in note for note in finding.notes)


def test_runs_measured_otherwise_are_left_out_and_counted() -> None:
    rows = matched(effect=1.0)
    others = [
        row | {"run_id": f"other-{row['run_id']}", "epsilon": 0.3, "intruders": 200} for row in rows[:6]
    ]
    (finding,) = analyse_all(study(runs=rows + others), ["structure"])
    assert _holds(finding.effects[0], 15.0)
    assert any(f"6 of {len(rows) + 6} were measured in another way" in note for note in finding.notes)


def test_an_unbalanced_seed_is_not_compared_by_other_settings() -> None:
    """Seed 2 lacks the ranks with few intruders: its mean over what it has would be far too high."""
    rows = [row for row in matched(effect=1.0) if not (row["seed"] == 2 and row["rank"] in (4, 8, 16))]
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.effects[0].estimate == pytest.approx(15.0, abs=1.0)


def test_a_valley_is_found_where_it_is() -> None:
    rows = []
    for row in matched(effect=1.0):
        if row["method"] == "lora":
            away = abs(math.log2(row["rank"]) - 2)
            rows.append(row | {"loss_change": 0.1 + 0.1 * away + noise("v", row["run_id"], size=0.002)})
    (finding,) = analyse_all(study(runs=rows), ["rank"])
    assert finding.shown is True
    assert "loss least at rank 4" in finding.verdict
    depth = next(effect for effect in finding.effects if "depth" in effect.name)
    assert _holds(depth, 0.2)


def test_without_a_valley_none_is_shown() -> None:
    """Noise alone puts the least loss at an inner rank three times of five; the interval must not fall for it."""
    generator = np.random.default_rng(0)
    ranks = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = [valley(pd.DataFrame(generator.normal(size=(3, 5)), columns=ranks)) for _ in range(500)]
    assert sum(one is not None and one.depth.low > 0 for one in found) <= 25  # 5 %


def test_explicit_alphas_make_the_same_series_as_the_rule() -> None:
    by_rule = matched(effect=1.0)
    by_number = [
        row | {"alpha": None if row["rank"] is None else f"{2 * row['rank']}"} for row in matched(effect=1.0)
    ]
    first, second = (analyse_all(study(runs=rows), ["rank"])[0] for rows in (by_rule, by_number))
    assert first.effects[0].estimate == pytest.approx(second.effects[0].estimate)
    assert "alpha = 2r" in second.verdict


def test_a_rate_for_each_rank_is_said() -> None:
    rows = [row | {"lr": 1e-4 / row["rank"] if row["rank"] else 1e-5} for row in matched(effect=1.0)]
    (finding,) = analyse_all(study(runs=rows), ["rank"])
    assert any("each rank has a learning rate of its own" in note for note in finding.notes)


def test_interventions_without_controls_show_no_cause() -> None:
    rows = matched(effect=1.0)
    points = [row for row in interventions(rows) if row["control"] == "intruders"]
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is None
    assert any("no controls" in note for note in finding.notes)


def test_a_control_that_does_as_well_shows_no_cause() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    for row in points:
        if row["control"] == "shrink":
            row["against_intruders"] = noise(row["run_id"], row["scale"], size=0.01)
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is False
    assert finding.verdict.startswith("Undecided in part (missing: about ")


def test_the_intruders_without_the_shrinking_are_no_rival() -> None:
    """At the update's own norm the claim expects the loss to fall too, and not to be higher than with the shrinking."""
    rows = matched(effect=1.0)
    points = interventions(rows)
    resized = [
        row | {"control": "resized", "against_intruders": noise(row["run_id"], size=0.001)}
        for row in points
        if row["control"] == "intruders" and row["scale"] < 1
    ]
    (finding,) = analyse_all(study(runs=rows, interventions=points + resized), ["intervention"])
    assert finding.decision == "supported"
    answer = next(answer for answer in finding.answers if "at the update's norm" in answer.what)
    assert (answer.expected, answer.decision) == (-1, "supported")


def test_norms_that_do_not_meet_are_not_compared() -> None:
    rows = matched(effect=1.0)
    traces = []
    for seed in range(3):
        traces += trace(f"tiny-words-lora-1-{seed}", [1, 2], [5.0, 6.0], [1.0, 2.0])
        traces += trace(f"tiny-words-full-{seed}", [0, 0], [1.0, 2.0], [1.0, 1.0])
    (finding,) = analyse_all(study(runs=rows, traces=traces), ["causes"])
    assert finding.effects == []
    assert any("do not overlap" in note for note in finding.notes)


def test_equal_norm_is_interpolated_by_hand() -> None:
    """LoRA: 2 n intruders of 20 at norm n; full: none. Norms 1.5 to 4 are shared, so the mean difference is at 2.75."""
    rows = matched(effect=1.0)
    traces = []
    for seed in range(3):
        traces += trace(f"tiny-words-lora-1-{seed}", [2, 4, 6, 8], [1.0, 2.0, 3.0, 4.0], [1.0] * 4)
        traces += trace(f"tiny-words-full-{seed}", [0, 0], [1.5, 4.5], [1.0] * 2)
    (finding,) = analyse_all(study(runs=rows, traces=traces), ["causes"])
    effect = next(e for e in finding.effects if "equal norm" in e.name)
    assert effect.estimate == pytest.approx(100 * 2 * 2.75 / 20)


def test_causes_compare_only_what_is_alike_in_all_else() -> None:
    """The runs of the higher rate have more steps too: nothing differs alone."""
    rows = [
        fixed(f"{lr}-{seed}", lr=lr, steps=steps, seed=seed, intruders=count)
        for seed in range(3)
        for lr, steps, count in ((1e-4, 100, 2), (1e-3, 300, 40))
    ]
    (finding,) = analyse_all(study(runs=rows), ["causes"])
    assert finding.verdict.startswith("Not run: this needs ")


def test_remedies_are_on_the_frontier_where_nothing_beats_them() -> None:
    rows = matched(effect=1.0)
    (finding,) = analyse_all(study(runs=rows, interventions=interventions(rows)), ["remedies"])
    table = finding.tables["Remedies"]
    for _, row in table.iterrows():
        beaten = (
            (table["loss_change"] <= row["loss_change"])
            & (table["accuracy_points"] >= row["accuracy_points"])
            & (
                (table["loss_change"] < row["loss_change"])
                | (table["accuracy_points"] > row["accuracy_points"])
            )
        )
        assert row["on_frontier"] == (not beaten.any())
    assert table["on_frontier"].any()
    assert (table["kind"] == "baseline").sum() == 1


def test_gains_of_interventions_are_tabulated_and_drawn_and_decide_nothing() -> None:
    rows = matched(effect=1.0)
    swept = interventions(rows)
    gains = [
        row | {"measure": "gain", "on": "words", "value": -0.5, "change": -0.5}
        for row in swept
        if row["measure"] == "accuracy" and row["control"] == "intruders"
    ]
    (before,) = analyse_all(study(runs=rows, interventions=swept), ["intervention"])
    (finding,) = analyse_all(study(runs=rows, interventions=swept + gains), ["intervention"])
    assert (finding.answers, finding.verdict) == (before.answers, before.verdict)
    table = finding.tables["By scale"]
    assert set(table.loc[table["measure"] == "gain", "change"]) == {-0.5}
    titles = [chart.title for chart in charts_of([finding])["intervention"]]
    assert any(title.startswith("Gain over interpolation at equal task loss on words") for title in titles)


def test_a_higher_rate_is_no_remedy() -> None:
    rows = matched(effect=1.0)
    rows += [
        row | {"run_id": f"fast-{row['run_id']}", "lr": 1e-2, "loss_change": -1.0}
        for row in rows
        if row["method"] == "lora" and row["rank"] == 1
    ]
    (finding,) = analyse_all(study(runs=rows), ["remedies"])
    assert not finding.tables["Remedies"]["remedy"].str.contains("lr=0.01").any()


def test_threshold_without_intruders_has_nothing_to_separate() -> None:
    rows = matched(seeds=2)
    matrices = [row | {"intruders": 0} for of in rows for row in scales(of["run_id"])]
    (finding,) = analyse_all(study(runs=rows, matrices=matrices), ["threshold"])
    assert finding.shown is None
    assert any("nothing to separate" in note for note in finding.notes)


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


def test_the_largest_part_without_gaps_is_found_wherever_the_gaps_are() -> None:
    gap = math.nan
    table = pd.DataFrame([[gap, 1, 2], [3, gap, 4], [5, 6, gap]], index=[0.0, 1.0, 2.0], columns=list("abc"))
    part = complete(table)  # each setting lacks another seed: two seeds share one setting
    assert part.shape == (2, 1)
    assert part.notna().all(axis=None)
    wide = pd.DataFrame(np.arange(20.0).reshape(4, 5), columns=list("abcde"))
    wide.iloc[0, 1:] = gap
    assert complete(wide).shape == (3, 5)
    notes: list[str] = []
    assert noted_complete(wide, "here", notes).shape == (3, 5)
    assert notes == ["here: 1 of 16 runs are left out, since not every seed has their setting"]


def test_shares_are_of_the_matrices_that_all_runs_changed() -> None:
    """An adapter of one module of two, beside full fine-tuning with intruders in the module that it leaves alone."""
    runs = [
        run(f"{method}-{seed}", seed=seed, method=method, intruders=count, vectors=vectors)
        for seed in range(3)
        for method, count, vectors in [("lora", 2, 10), ("full", 6, 20)]
    ]
    matrices = [
        {"run_id": f"{method}-{seed}", "name": name, "intruders": count, "vectors": 10}
        for seed in range(3)
        for method, name, count in [("lora", "q", 2), ("full", "q", 1), ("full", "v", 5)]
    ]
    (found,) = [one for one in analyse_all(study(runs=runs, matrices=matrices)) if one.name == "structure"]
    assert found.effects[0].estimate == pytest.approx(10.0)  # 20 per 100 of q minus 10, not minus 30 of both
    assert any("counted on the 1 matrices" in note for note in found.notes)


def test_the_best_remedy_is_one_that_clearly_saves() -> None:
    """A single seed of another may have the larger estimate, and shows nothing."""
    rows = []
    for seed in range(3):
        little = noise(seed, size=0.01)
        rows.append(run(f"plain-{seed}", seed=seed, rank=1, intruders=20, loss_change=1.0 + little))
        rows.append(run(f"eight-{seed}", seed=seed, rank=8, intruders=0, loss_change=0.2 - little))
    rows.append(run("sixteen", seed=0, rank=16, intruders=0, loss_change=0.1))
    (found,) = [one for one in analyse_all(study(runs=rows)) if one.name == "remedies"]
    assert found.shown
    assert "most saves lora r=8" in found.verdict


def test_a_sequence_that_did_not_reach_its_score_is_listed_and_not_compared() -> None:
    tables = sequence_study()
    missed = tables["runs"][0]
    assert (missed["rank"], missed["seed"]) == (1, 0)
    missed["stopped_by"] = "steps"
    finding = sequence.analyse(study(**tables))
    (note,) = [note for note in finding.notes if "did not reach" in note]
    assert "1 of 12 runs did not reach accuracy=0.90" in note
    assert "lora r=1 alpha=2r lr=0.0001 (seed 0)" in note
    assert missed["run_id"] not in set(finding.tables["Runs"]["run_id"])
    for row in tables["runs"]:
        row["stopped_by"] = "steps"
    assert not sequence.analyse(study(**tables)).effects
    for row in tables["runs"]:
        row["match"] = None
    assert any("not at equal score" in note for note in sequence.analyse(study(**tables)).notes)


def test_sequences_that_merge_and_that_keep_are_two_settings() -> None:
    merged = run("a", kind="sequence", adapters="merge")
    assert setting_of(merged) != setting_of(run("b", kind="sequence", adapters="keep"))
    assert setting_of(merged) == setting_of(run("c", kind="sequence", adapters="merge"))
