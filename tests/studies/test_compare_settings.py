"""Settings side by side: means and paired differences by hand, with Student's quantile from scipy."""

import math

from scipy import stats

from intruders.studies.compare_settings import compare_settings
from tests.studies.planted import run, study

LORA, FULL = [0.80, 0.90, 0.85], [0.70, 0.90, 0.74]


def test_a_mean_and_a_paired_difference_have_students_interval() -> None:
    rows = [run(f"lora-{seed}", seed=seed, method="lora", rank=1, accuracy=LORA[seed]) for seed in range(3)]
    rows += [run(f"full-{seed}", seed=seed, method="full", accuracy=FULL[seed]) for seed in range(3)]
    rows += [run("pending", seed=4, method="lora", rank=1, status="pending", accuracy=math.nan)]
    frame = compare_settings(study(runs=rows))
    assert not frame.astype(str).eq("").all().any(), "no empty column"
    lora, full = frame.to_dict("records")
    assert (lora["seeds"], full["seeds"]) == (3, 3)
    assert full["accuracy, difference"] == "", "full fine-tuning is what others are compared with"
    low, high = stats.t.interval(0.95, 2, loc=0.85, scale=stats.sem(LORA))
    assert lora["accuracy"] == f"0.85 [{low:.3g}, {high:.3g}]"
    pairs = [one - other for one, other in zip(LORA, FULL, strict=True)]
    low, high = stats.t.interval(0.95, 2, loc=0.07, scale=stats.sem(pairs))
    assert lora["accuracy, difference"] == f"+0.07 [{low:+.3g}, {high:+.3g}]"


def test_a_study_without_a_finished_run_has_no_settings() -> None:
    results = study(runs=[run("one", status="failed")])
    assert compare_settings(results).empty
