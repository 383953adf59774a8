"""A made-up study in which every claim of the paper is planted, for tests of what people see.

Nothing here is measured.
"""

from pathlib import Path
from typing import Any

import numpy as np

from intruders.studies.results import Results, load_results
from intruders.studies.stage import Rows
from tests.made_up import made_up_audit
from tests.research.claims.whole_study import random_terms
from tests.research.planted import around, attributed, interventions, sequence_study, study_folder, trace
from tests.studies.planted import comparisons, noise, run

SEEDS = (0, 1, 2)
# experiment, what differs, share of vectors that are intruders, accuracy, change of the pre-training loss
Planted = tuple[str, dict[str, Any], float, float, float]
RUNS: list[Planted] = [
    ("matched", {"method": "lora", "rank": 1, "alpha": "16", "lr": 5e-3}, 0.22, 0.90, 0.95),
    ("matched", {"method": "lora", "rank": 8, "alpha": "16", "lr": 2e-3}, 0.12, 0.91, 0.45),
    ("matched", {"method": "lora", "rank": 64, "alpha": "16", "lr": 1e-3}, 0.05, 0.92, 0.30),
    ("matched", {"method": "lora", "rank": 1, "alpha": "2r", "lr": 5e-3}, 0.20, 0.89, 0.90),
    ("matched", {"method": "lora", "rank": 8, "alpha": "2r", "lr": 2e-3}, 0.08, 0.91, 0.35),
    ("matched", {"method": "lora", "rank": 64, "alpha": "2r", "lr": 1e-3}, 0.02, 0.92, 0.40),
    ("matched", {"method": "full", "lr": 5e-5}, 0.0, 0.93, 0.12),
    ("matched", {"method": "rslora", "rank": 64, "alpha": "16", "lr": 1e-3}, 0.03, 0.92, 0.20),
    ("matched", {"method": "pissa", "rank": 8, "alpha": "16", "lr": 1e-3}, 0.06, 0.90, 0.25),
    ("matched", {"method": "b-only", "rank": 8, "alpha": "16", "lr": 2e-3}, 0.04, 0.86, 0.18),
    ("causes", {"method": "lora", "rank": 8, "alpha": "16", "lr": 5e-4}, 0.02, 0.88, 0.15),
    ("causes", {"method": "lora", "rank": 8, "alpha": "16", "lr": 8e-3}, 0.25, 0.88, 1.30),
    ("causes", {"method": "lora", "rank": 8, "alpha": "64", "lr": 2e-3}, 0.24, 0.89, 1.10),
    ("causes", {"method": "lora", "rank": 8, "alpha": "16", "lr": 2e-3, "max_train_samples": 200}, 0.2, 0.8, 0.8),
    ("causes", {"method": "lora", "rank": 8, "alpha": "16", "lr": 2e-3, "weight_decay": 0.1}, 0.10, 0.9, 0.4),
    ("causes", {"method": "lora-fa", "rank": 8, "alpha": "16", "lr": 2e-3, "init_a": "orthonormal"}, 0.05, 0.9, 0.3),
    ("causes", {"method": "lora+", "rank": 8, "alpha": "16", "lr": 2e-3}, 0.11, 0.9, 0.4),
]  # fmt: skip


def made_up_study(folder: Path) -> Results:
    """A study with every table filled, written to `folder` with the audits of its runs."""
    rng = np.random.default_rng(7)
    sequences = sequence_study()
    mechanism, drawn = random_terms(1.0, len(SEEDS))
    error = "rank 4096 is above <b>576</b>, the smaller side of q_proj"
    failed = run("failed-lora-rank4096", status="failed", rank=4096, error=error)
    tables: Rows = {
        "runs": [*sequences["runs"], *drawn, failed],
        "sequences": sequences["sequences"],
        "mechanism": mechanism,
    }
    tables |= {
        table: [] for table in ("interventions", "traces", "matrices", "vectors", "remedies", "attributions")
    }
    for seed in SEEDS:
        for planted in RUNS:
            _fill_run(tables, folder, rng, seed, planted)
    study_folder(folder, {"support": {"structure": "</script>"}}, **tables)
    return load_results(folder)


def _fill_run(tables: Rows, folder: Path, rng: np.random.Generator, seed: int, planted: Planted) -> None:
    experiment, settings, rate, accuracy, change = planted
    varied = "-".join(f"{key}{value}" for key, value in settings.items() if key != "method")
    run_id = f"{experiment}-{settings['method']}-{varied}-seed{seed}"
    rate = rate * float(rng.uniform(0.85, 1.15))
    accuracy = accuracy + float(rng.normal(0, 0.004))
    change = change + float(rng.normal(0, 0.03))
    number = seed * 100 + len(tables["runs"])
    audit = made_up_audit(
        4, width=96, intruder_rate=rate, rank=settings.get("rank"), tuned=run_id, seed=number
    )
    (folder / "runs" / run_id).mkdir(parents=True)
    audit.save(folder / "runs" / run_id / "audit.json")
    of_adapters = {"rank": None, "alpha": None}  # of which full fine-tuning has none
    row = run(run_id, **(of_adapters | settings), experiment=experiment, seed=seed) | {
        **around("accuracy", accuracy), **around("loss_change", change),
        "intruders": audit.intruders, "vectors": audit.vectors, "matrices": len(audit.matrices),
        "affected_matrices": sum(matrix.intruders > 0 for matrix in audit.matrices),
        "intruder_energy_share": audit.intruder_energy_share,
        "update_frobenius": 8 + 40 * rate + float(rng.normal(0, 0.5)),
        "effective_rank": float(np.mean([matrix.update.effective_rank for matrix in audit.matrices])),
        "kl_prompts": change * (1 + 0.1 * seed),
    }  # fmt: skip
    if experiment != "matched":
        row |= {"match": None, "stopped_by": "steps"}
    tables["runs"].append(row)
    tables["attributions"] += attributed(run_id, 1.0, 0.25 if audit.intruders else None)
    of_matrices: Any = audit.matrices_to_pandas().to_dict("records")
    for of_matrix in of_matrices:
        predicted = float(rng.lognormal(0.6 - 0.7 * of_matrix["intruders"], 0.4))
        measured = predicted * float(rng.lognormal(0, 0.25)) if rate else np.inf
        named = {"run_id": run_id, "kind": of_matrix["name"].split(".")[-2]}
        named |= {"layer": int(of_matrix["name"].split(".")[2])}
        scales = {"critical_scale": measured, "predicted_scale": predicted}
        tables["matrices"].append(of_matrix | named | scales)
    tables["vectors"] += audit.to_pandas().assign(run_id=run_id).to_dict("records")  # type: ignore[arg-type]
    if experiment == "matched":
        some = min(5, audit.intruders)
        values = [8 + at + noise(run_id, at, size=0.3) for at in range(4)]
        tables["interventions"] += interventions([row])
        tables["traces"] += trace(run_id, [0, 0, some, 2 * some], [1.0, 2.0, 3.0, 4.0], values)
        tables["remedies"] += comparisons([row], {"lines": 0.2, "trim": -0.1})
