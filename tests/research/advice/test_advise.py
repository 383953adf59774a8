"""Advice on a study: given where its effects are clear, and with the reason where they are not."""

from pathlib import Path

import pytest
from scipy import stats

from intruders.errors import IntrudersError
from intruders_research.advice.advise import advise, advise_study
from intruders_research.claims.every_claim import analyse_all
from tests.commands import without_loading
from tests.research.planted import interventions, matched, study_folder
from tests.research_commands import IN_A_PROCESS
from tests.studies.planted import noise, run, study


@pytest.mark.parametrize(
    ("which", "gain", "change"),
    [
        ("all", -0.4, "turn the complete update down"),
        ("all", 0.0, "compare before you scale intruders"),
        ("all", 0.4, "intruders scaled to 0 "),
        ("top", 0.4, "intruders scaled to 0 "),
    ],
)
def test_a_study_where_interpolation_was_measured(
    tmp_path: Path, which: str, gain: float, change: str
) -> None:
    rows = matched(effect=1.0)
    swept = [row | {"which": which} for row in interventions(rows)]
    gains = [
        row | {"measure": "gain", "on": "words", "change": gain + noise(row["run_id"], size=0.02)}
        for row in swept
        if row["measure"] == "accuracy" and row["control"] == "intruders"
    ]
    found = advise(study_folder(tmp_path, runs=rows, interventions=swept + gains))
    (one,) = (one for one in found.advice if one.topic == "mitigation")
    assert one.change.startswith(change)
    assert any("gain over interpolation at equal task loss" in line for line in one.evidence)


def test_a_study_with_clear_effects(tmp_path: Path) -> None:
    rows = [row | {"critical_scale": 0.3087 + 0.01 * row["seed"]} for row in matched(effect=1.0)]
    found = advise(study_folder(tmp_path, runs=rows, interventions=interventions(rows)))
    by_topic = {one.topic: one for one in found.advice}
    assert {"rank", "mitigation", "scale"} <= by_topic.keys()
    assert "the norm-matched shrink of the complete update saves" in " ".join(by_topic["mitigation"].evidence)
    scale = next(one for one in found.advice if one.topic == "scale" and "r=1 " in one.change)
    assert "at 0.3 of its scale" in scale.change, "rounded down, since intruders begin right above it"
    assert "0.309, 0.319, 0.329 in 3 runs" in scale.evidence[0]
    assert all(one.evidence for one in found.advice)


def test_models_below_their_score_give_no_scale() -> None:
    rows = [row | {"critical_scale": 0.3} for row in matched(effect=1.0)]
    below = [row | ({"stopped_by": "steps"} if row["rank"] == 1 else {}) for row in rows]
    advice, _ = advise_study(study(runs=below))
    scales = [one.change for one in advice if one.topic == "scale"]
    assert len(scales) == 4
    assert not any("r=1 " in change for change in scales)


def test_a_study_without_effects_gives_no_advice() -> None:
    rows = [row | {"loss_change": 0.1 + noise(row["run_id"], size=0.01)} for row in matched(effect=0.0)]
    advice, notes = advise_study(study(runs=rows, interventions=interventions(rows, change=0, against=0)))
    assert advice == []
    assert any(note.startswith(("remedies: Undecided", "remedies: Contradicted")) for note in notes)


def test_a_study_of_one_seed_gives_no_advice_and_says_why() -> None:
    rows = matched(effect=1.0, seeds=1)
    advice, notes = advise_study(study(runs=rows, interventions=interventions(rows)))
    assert advice == []
    assert notes[0].startswith("one seed:")


def test_a_setting_that_is_clear_alone_and_not_among_all_that_were_compared_is_no_advice() -> None:
    """The paired t test of the rate has p = 0.037: below 0.05, and above it times the four that are compared."""
    plain = [20, 21, 19]
    others = [
        ({"lr": 1e-2}, [27, 25, 23]),
        ({"weight_decay": 0.1}, [21, 23, 20]),
        ({"alpha": "8"}, [23, 20, 22]),
        ({"max_train_samples": 8}, [23, 20, 20]),
    ]
    runs = [
        run(f"{at}-{seed}", seed=seed, intruders=count, match=None, stopped_by="steps", **changes)
        for at, (changes, counts) in enumerate([({"alpha": "2"}, plain), *others])
        for seed, count in enumerate(counts)
        for changes in ({"lr": 1e-3, "alpha": "2"} | changes,)
    ]
    p = stats.ttest_rel(others[0][1], plain).pvalue
    assert 0.05 / 4 < p < 0.05
    results = study(runs=runs)
    (finding,) = analyse_all(results, ["causes"])
    row = next(row for _, row in finding.tables["One setting at a time"].iterrows() if row["varied"] == "lr")
    assert row["p_among_all"] == pytest.approx(4 * p)
    assert "undecided for learning rate" in finding.verdict
    assert "learning rate" not in [piece.topic for piece in advise_study(results)[0]]
    # Alone it is clear, and is advice.
    alone = [kept for kept in runs if kept["alpha"] == "2" and not kept.get("weight_decay")]
    advice, _ = advise_study(study(runs=[kept for kept in alone if not kept.get("max_train_samples")]))
    (lower,) = [piece for piece in advice if piece.topic == "learning rate"]
    assert lower.change == "lower learning rate for fewer intruders"
    assert "from 0.001 to 0.01" in lower.evidence[0]


def test_an_empty_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntrudersError, match="has no runs yet"):
        advise(study_folder(tmp_path))


def test_a_study_is_advised_on_without_loading_torch(tmp_path: Path) -> None:
    """Which takes several times as long as the rest of the command."""
    folder = study_folder(tmp_path / "study", runs=matched())
    done = without_loading(["torch"], ["advise", folder], before=IN_A_PROCESS)
    assert done.returncode == 0, done.stderr
    assert "(study)" in done.stdout
