"""The claim on causes: what is compared, and at which norm."""

import pytest

from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import NOT_RUN
from tests.research.planted import fixed, matched, trace
from tests.studies.planted import run, study


def test_causes_compare_only_what_is_alike_in_all_else() -> None:
    """The runs of the higher rate have more steps too: nothing differs alone."""
    rows = [
        fixed(f"{lr}-{seed}", lr=lr, steps=steps, seed=seed, intruders=count)
        for seed in range(3)
        for lr, steps, count in ((1e-4, 100, 2), (1e-3, 300, 40))
    ]
    (finding,) = analyse_all(study(runs=rows), ["causes"])
    assert (finding.decision, finding.effects) == (NOT_RUN, [])


def test_what_lowers_the_count_lowers_it_by_a_positive_number() -> None:
    """Of 200 vectors 40 fewer, and in two seeds 41: 20, 20.5 and 20.5 per 100, on average 61 / 3."""
    rows = [
        fixed(f"{lr}-{seed}", lr=lr, seed=seed, intruders=count)
        for seed, fewer in enumerate((40, 41, 41))
        for lr, count in ((1e-4, 2 + fewer), (1e-3, 2))
    ]
    (finding,) = analyse_all(study(runs=rows), ["causes"])
    (answer,) = finding.answers
    assert answer.estimate == pytest.approx(-61 / 3)
    ends = f"[+{-answer.high:.2f}, +{-answer.low:.2f}]"
    assert f"lowers intruders per 100 vectors by +20.33 {ends}" in finding.verdict


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


def test_a_seed_of_which_a_run_is_missing_makes_no_comparison_of_its_own() -> None:
    """Five seeds at three rates, of the last one without the highest rate: four seeds are compared over all rates."""
    rows = [
        fixed(f"{lr}-{seed}", lr=lr, seed=seed, intruders=count + seed % 3)
        for seed in range(5)
        for lr, count in ((1e-4, 2), (3e-4, 10), (1e-3, 40))
        if (lr, seed) != (1e-3, 4)
    ]
    (finding,) = analyse_all(study(runs=rows), ["causes"])
    (answer,) = finding.answers
    assert "0.0001 to 0.001" in answer.what
    assert (answer.seeds, answer.decision) == (4, "supported")
    # 38 of 200 vectors in every seed.
    assert answer.estimate == pytest.approx(19.0)


def test_the_rise_with_the_size_of_a_term_is_one_of_the_same_matrices() -> None:
    """Of two experiments, small terms in one kind of matrix and large ones in another say nothing of the size."""
    drawn = [run(f"t{seed}", kind="random-rank-one", seed=seed, task=None, method=None) for seed in range(3)]
    both = [("q_proj", 0.1), ("q_proj", 2.0)]
    apart = [("up_proj", 1.0), ("down_proj", 4.0)]

    def rows(terms: list[tuple[str, float]]) -> list[dict[str, object]]:
        return [
            {
                "run_id": each["run_id"],
                "name": f"layers.{number}.{name}.weight",
                "multiple": multiple,
                "predicted_multiple": 0.5,
                "intruders": int(multiple > 0.5 or number == each["seed"]),
            }
            for each in drawn
            for number in range(10)
            for name, multiple in terms
        ]

    [finding] = analyse_all(study(runs=drawn, mechanism=rows(both)), ["causes"])
    [effect] = finding.effects
    assert effect.estimate == pytest.approx(0.9)
    [finding] = analyse_all(study(runs=drawn, mechanism=rows(apart)), ["causes"])
    assert finding.effects == []
