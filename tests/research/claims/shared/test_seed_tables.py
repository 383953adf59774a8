"""Which runs a claim compares: of one base and task, at one score, measured alike, with every seed in every setting."""

import math

import numpy as np
import pandas as pd
import pytest

from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.seed_tables import complete, noted_complete, seeds_of_settings
from tests.research.planted import holds, matched
from tests.studies.planted import run, study


def test_bases_and_tasks_are_never_mixed() -> None:
    """Two bases, each without any effect of its own, whose levels together would show a strong one."""
    rows = matched(effect=0.0, base="small")
    for row in matched(effect=0.0, base="large"):
        rows.append(row | {"intruders": row["intruders"] + 100, "loss_change": row["loss_change"] + 1})
    (finding,) = analyse_all(study(runs=rows), ["forgetting"])
    assert finding.shown is False
    assert {(answer.on.base, answer.on.task) for answer in finding.answers} == {
        ("large", "words"),
        ("small", "words"),
    }
    assert len([e for e in finding.effects if e.what == "Spearman of intruders and loss change"]) == 2


def test_runs_that_missed_the_score_are_left_out_and_counted() -> None:
    rows = matched(effect=1.0)
    for row in rows[:4]:
        row |= {"stopped_by": "steps", "intruders": 0}
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.runs == len(rows) - 4
    assert any(f"4 of {len(rows)} runs did not reach accuracy=0.90" in note for note in finding.notes)
    assert "at equal score, LoRA minus full" in finding.verdict


def test_without_a_match_criterion_accuracies_must_agree() -> None:
    rows = [row | {"match": None, "stopped_by": "steps"} for row in matched(effect=1.0)]
    for row in rows[:5]:
        row |= {"accuracy": 0.5, "accuracy_low": 0.45, "accuracy_high": 0.55}
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.runs == len(rows) - 5
    assert any("agree within their intervals" in note for note in finding.notes)
    assert "where accuracies agree within intervals, LoRA minus full" in finding.verdict


def test_runs_measured_otherwise_are_left_out_and_counted() -> None:
    rows = matched(effect=1.0)
    others = [
        row | {"run_id": f"other-{row['run_id']}", "epsilon": 0.3, "intruders": 200} for row in rows[:6]
    ]
    (finding,) = analyse_all(study(runs=rows + others), ["structure"])
    assert holds(finding.effects[0], 15.0)
    assert any(f"6 of {len(rows) + 6} were measured in another way" in note for note in finding.notes)


def test_an_unbalanced_seed_is_not_compared_by_other_settings() -> None:
    """Seed 2 lacks the ranks with few intruders: its mean over what it has would be far too high."""
    rows = [row for row in matched(effect=1.0) if not (row["seed"] == 2 and row["rank"] in (4, 8, 16))]
    (finding,) = analyse_all(study(runs=rows), ["structure"])
    assert finding.effects[0].estimate == pytest.approx(15.0, abs=1.0)


def test_the_largest_part_without_gaps_is_found_wherever_the_gaps_are() -> None:
    gap = math.nan
    table = pd.DataFrame([[gap, 1, 2], [3, gap, 4], [5, 6, gap]], index=[0.0, 1.0, 2.0], columns=list("abc"))
    part = complete(table)  # each setting lacks another seed: two seeds share one setting
    assert part.shape == (2, 1)
    assert part.notna().all(axis=None)
    wide = pd.DataFrame(np.arange(20.0).reshape(4, 5), columns=list("abcde"))
    wide.iloc[0, 1:] = gap
    assert complete(wide).shape == (3, 5)
    whole, notes = noted_complete(wide, "here")
    assert whole.shape == (3, 5)
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


@pytest.mark.parametrize(("further", "seeds"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)])
def test_the_first_runs_of_a_seed_are_no_second_seed(further: int, seeds: int) -> None:
    """Four settings of one seed, and the first of them of another: more than half of them make it a seed."""
    rows = [{"setting": name, "seed": 0} for name in "abcd"]
    rows += [{"setting": name, "seed": 1} for name in "abcd"[:further]]
    assert seeds_of_settings(pd.DataFrame(rows)) == seeds
