"""The evidence on a claim: what one effect decides, alone and among several, and on how many seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from intruders.measures.intervals import Interval, mean_interval
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Effect, Where
from intruders_research.claims.shared.evidence import Evidence
from intruders_research.claims.shared.statistics import (
    auc_interval,
    holm,
    partial_spearman,
    spearman,
)
from intruders_research.claims.structure import CLAIM
from tests.research.planted import matched, sequence_study, trace
from tests.studies.planted import run, study

HERE = Where("tiny", "words")


def answers(*intervals: Interval, seeds: int | None = None, digits: int = 2) -> list[Effect]:
    evidence = Evidence(CLAIM, study())
    for number, interval in enumerate(intervals):
        evidence.add(HERE, f"effect {number}", interval, digits=digits, seeds=seeds)
    return evidence.answers


def test_the_seeds_of_an_effect_are_those_that_measured_it() -> None:
    """Seed 2 has its first intruder at the end: no growth of it, and so no seed of the growth."""
    runs = [run(f"r-{seed}", seed=seed, intruders=4) for seed in range(3)]
    traces = []
    for seed in range(3):
        counts = [0, 0, 0, 4] if seed == 2 else [0, 2, 3, 4]
        traces += trace(f"r-{seed}", counts, [1.0, 2.0, 3.0, 4.0], [8.0, 9.0 + seed, 10.0, 14.0])
    (finding,) = analyse_all(study(runs=runs, traces=traces), ["dynamics"])
    seeds = {answer.what: answer.seeds for answer in finding.answers}
    assert seeds == {
        "intruders per 100 vectors, end of training minus its middle": 3,
        "doublings of an intruder's singular value since it appeared": 2,
    }
    assert "(2 to 3 seeds)" in finding.verdict


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.04 of four: 0.04, 0.06, then 2 x 0.03 and 0.04, not less than what came before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_p_values_are_those_of_scipy_and_tell_what_the_interval_tells() -> None:
    values = [0.3, 1.2, 2.2, 0.7, 0.1]
    found = mean_interval(values)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert mean_interval(values, level=1 - 0.05 / 3).p == pytest.approx(
        3 * stats.ttest_1samp(values, 0).pvalue
    )
    generator = np.random.default_rng(0)
    for _ in range(50):
        x, z = generator.normal(size=12), generator.normal(size=12)
        y = x * generator.normal() + generator.normal(size=12)
        groups = [f"{at // 2}" for at in range(12)]
        area = auc_interval(x + (y > 0), (y > 0).tolist(), groups)
        for interval, null in (
            (mean_interval(y[:4] + 1), 0.0),
            (mean_interval(y[:4] + 1, level=0.99), 0.0),
            (spearman(x, y, groups), 0.0),
            (partial_spearman(x, y, [z], groups), 0.0),
            (area, 0.5),
        ):
            if interval.p is None:
                continue
            leaves_out = interval.low > null or interval.high < null
            assert (interval.p < 0.05) == leaves_out, interval


def test_one_interval_of_several_that_leaves_out_zero_decides_nothing() -> None:
    """p = 0.03 is clear alone; with four others at 0.5 it is 0.15 (Holm)."""
    alone = mean_interval([1.0, 2.0, 1.4])  # t = 5.05 with two degrees of freedom, p = 0.0371
    assert alone.p == pytest.approx(0.037, abs=2e-3)
    assert [answer.decision for answer in answers(alone)] == ["supported"]
    others = [mean_interval([-1.0, 1.0, 2.0])] * 2
    first, *rest = answers(alone, *others)
    assert first.decision == "undecided"
    assert first.adjusted == pytest.approx(3 * (alone.p or 0))
    assert first.lacking == "an interval that is clear among the 3 of this claim, too (Holm)"
    assert {answer.decision for answer in rest} == {"undecided"}
    strong = mean_interval([10.0, 10.1, 9.9])
    assert answers(strong, *others)[0].decision == "supported"


def test_an_interval_that_touches_zero_is_undecided() -> None:
    """0.003 is printed as 0.00 with two decimals, and as 0.003 with three."""
    interval = Interval(0.35, 0.003, 0.69, 3, 0.049)
    (answer,) = answers(interval)
    assert (answer.decision, answer.lacking) == ("undecided", "an interval that does not touch zero")
    assert [answer.decision for answer in answers(interval, digits=3)] == ["supported"]


def test_one_seed_supports_nothing_even_with_an_interval_over_settings() -> None:
    (answer,) = answers(Interval(0.9, 0.6, 0.95, 12, 0.001), seeds=1)
    assert (answer.decision, answer.lacking) == ("undecided", "more than one seed")


def test_an_interval_without_an_end_is_not_clear() -> None:
    assert not Interval(-1.0, -math.inf, -0.1).is_clear
    assert not Interval(1.0, 0.1, math.inf).is_clear
    assert Interval(1.0, 0.1, 2.0).is_clear
    assert not Interval(math.nan, math.nan, math.nan).is_clear


def test_an_undecided_effect_that_could_be_as_large_on_the_other_side_says_how_wide_its_interval_is() -> None:
    narrow, wide = answers(mean_interval([0.05, 0.25, 0.45]), mean_interval([-0.3, 0.1, 0.5]))
    assert "wide" not in narrow.lacking
    assert wide.lacking.endswith("; the interval is 2 wide")  # 2 x 4.303 x 0.4 / sqrt(3)


def test_nothing_that_the_claim_speaks_of_is_not_run() -> None:
    """Runs that differ in weight decay alone say nothing of what the claim on causes says."""
    runs = [
        run(f"{decay}-{seed}", seed=seed, weight_decay=decay, intruders=10 + seed)
        for seed in range(3)
        for decay in (0.0, 0.1)
    ]
    (finding,) = analyse_all(study(runs=runs), ["causes"])
    assert (finding.decision, finding.answers) == ("not run", [])


def test_an_effect_that_is_named_in_advance_decides_alone() -> None:
    tables = sequence_study()
    results = replace(study(**tables), primary={"sequence": "LoRA minus full"})
    (finding,) = analyse_all(results, ["sequence"])
    assert [(answer.what, answer.tests) for answer in finding.answers] == [
        ("points forgotten, LoRA minus full", 1)
    ]
    assert any("named in advance" in note for note in finding.notes)


@pytest.mark.parametrize(
    ("primary", "words"),
    [
        ("lora minus full", "no effect that the claim speaks of is named 'lora minus full'"),
        ("LoRA minus full", "several effects are named 'LoRA minus full'"),
    ],
)
def test_a_name_given_in_advance_that_is_of_no_one_effect_decides_nothing(primary: str, words: str) -> None:
    results = replace(study(runs=matched(effect=1.0)), primary={"structure": primary})
    (finding,) = analyse_all(results, ["structure"])
    assert (finding.answers, finding.decision) == ([], "undecided")
    assert finding.verdict.startswith("Undecided (")
    assert words in finding.verdict
    assert "'intruders per 100 vectors, LoRA minus full'" in finding.verdict
    assert len(finding.effects) == 2
    in_full = replace(results, primary={"structure": "intruders per 100 vectors, LoRA minus full"})
    assert analyse_all(in_full, ["structure"])[0].decision == "supported"
