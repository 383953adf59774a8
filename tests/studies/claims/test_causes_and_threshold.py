"""The claims on causes and on the threshold of a random term."""

from __future__ import annotations

from intruders.studies.claims.every_claim import analyse_all
from tests.studies.planted import (
    fixed,
    matched,
    scales,
    study,
)


def test_causes_compare_only_what_is_alike_in_all_else() -> None:
    """The runs of the higher rate have more steps too: nothing differs alone."""
    rows = [
        fixed(f"{lr}-{seed}", lr=lr, steps=steps, seed=seed, intruders=count)
        for seed in range(3)
        for lr, steps, count in ((1e-4, 100, 2), (1e-3, 300, 40))
    ]
    (finding,) = analyse_all(study(runs=rows), ["causes"])
    assert finding.verdict.startswith("Not run: this needs ")


def test_threshold_without_intruders_has_nothing_to_separate() -> None:
    rows = matched(seeds=2)
    matrices = [row | {"intruders": 0} for of in rows for row in scales(of["run_id"])]
    (finding,) = analyse_all(study(runs=rows, matrices=matrices), ["threshold"])
    assert finding.shown is None
    assert any("nothing to separate" in note for note in finding.notes)
