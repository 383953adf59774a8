"""A made-up study with something for every analysis."""

import random
from functools import cache
from typing import Any

from intruders.studies.results import Results
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Finding
from tests.research.planted import attributed, fixed, interventions, matched, scales, sequence_study, trace
from tests.studies.planted import noise, run, study


@cache  # the analyses only read it
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


@cache  # several tests look at one finding
def finding_of(name: str, effect: float, seeds: int = 3) -> Finding:
    """What an analysis finds in the whole study."""
    (finding,) = analyse_all(whole_study(effect, seeds), [name])
    return finding


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
