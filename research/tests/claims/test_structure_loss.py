"""What LoRA forgot more than full fine-tuning at one score: listed, and decided only where it is named in advance."""

from statistics import mean

import pytest

from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Finding
from tests.studies.planted import run, study

LORA, FULL = (0.30, 0.34, 0.32), (0.10, 0.11, 0.12)
WHAT = "loss change, LoRA minus full, nats per token"


def found(primary: str) -> Finding:
    runs = [
        run(f"l-{seed}", method="lora", rank=256, seed=seed, loss_change=value)
        for seed, value in enumerate(LORA)
    ]
    runs += [
        run(f"f-{seed}", method="full", rank=None, lr=1e-5, seed=seed, loss_change=value)
        for seed, value in enumerate(FULL)
    ]
    results = study(runs=runs)
    results.primary["structure"] = primary
    (finding,) = analyse_all(results, ["structure"])
    return finding


def test_it_is_listed_and_is_no_answer() -> None:
    finding = found("")
    effect = next(effect for effect in finding.effects if effect.what == WHAT)
    assert effect.estimate == pytest.approx(mean(LORA) - mean(FULL))
    assert WHAT not in [answer.what for answer in finding.answers]


def test_named_in_advance_it_decides_alone() -> None:
    finding = found("loss change, LoRA minus full")
    assert [(answer.what, answer.decision) for answer in finding.answers] == [(WHAT, "supported")]
    assert f"LoRA minus full fine-tuning {mean(LORA) - mean(FULL):+.3f}" in finding.verdict


@pytest.mark.parametrize(
    ("stopped_by", "words"),
    [("match", "at equal score"), ("steps", "where accuracies agree within intervals")],
)
def test_only_a_match_criterion_makes_an_equal_score(stopped_by: str, words: str) -> None:
    settings = {"stopped_by": stopped_by, "match": "accuracy=0.9" if stopped_by == "match" else None}
    runs = [
        run(f"{method}-{seed}", method=method, rank=rank, seed=seed, **settings)
        for method, rank in (("lora", 256), ("full", None))
        for seed in range(3)
    ]
    (finding,) = analyse_all(study(runs=runs), ["structure"])
    assert f"intruders per 100 vectors {words}, LoRA minus full" in finding.verdict
    assert ("at equal score" in finding.verdict) is (stopped_by == "match")
