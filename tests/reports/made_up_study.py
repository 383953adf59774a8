"""A made-up study in which every claim of the paper is planted, for tests of what people see.

Nothing here is measured.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intruders.studies.results import Results
from intruders.studies.stage import Rows
from intruders.studies.tables import COLUMNS, to_parquet
from intruders.training.finetune_config import ADAPTER_ONLY, FinetuneConfig
from tests.made_up import made_up_audit
from tests.studies.planted import comparisons, study

Row = dict[str, Any]
LAYERS = 4
SEEDS = (0, 1, 2)
# experiment, what differs, share of vectors that are intruders, accuracy, change of the pre-training loss
Planted = tuple[str, dict[str, Any], float, float, float]
RUNS: list[Planted] = [
    ("matched", {"method": "lora", "rank": 1, "alpha": 16.0, "lr": 5e-3}, 0.22, 0.90, 0.95),
    ("matched", {"method": "lora", "rank": 8, "alpha": 16.0, "lr": 2e-3}, 0.12, 0.91, 0.45),
    ("matched", {"method": "lora", "rank": 64, "alpha": 16.0, "lr": 1e-3}, 0.05, 0.92, 0.30),
    ("matched", {"method": "lora", "rank": 1, "alpha": "2r", "lr": 5e-3}, 0.20, 0.89, 0.90),
    ("matched", {"method": "lora", "rank": 8, "alpha": "2r", "lr": 2e-3}, 0.08, 0.91, 0.35),
    ("matched", {"method": "lora", "rank": 64, "alpha": "2r", "lr": 1e-3}, 0.02, 0.92, 0.40),
    ("matched", {"method": "full", "lr": 5e-5}, 0.0, 0.93, 0.12),
    ("matched", {"method": "rslora", "rank": 64, "alpha": 16.0, "lr": 1e-3}, 0.03, 0.92, 0.20),
    ("matched", {"method": "pissa", "rank": 8, "alpha": 16.0, "lr": 1e-3}, 0.06, 0.90, 0.25),
    ("matched", {"method": "b-only", "rank": 8, "alpha": 16.0, "lr": 2e-3}, 0.04, 0.86, 0.18),
    ("causes", {"method": "lora", "rank": 8, "alpha": 16.0, "lr": 5e-4}, 0.02, 0.88, 0.15),
    ("causes", {"method": "lora", "rank": 8, "alpha": 16.0, "lr": 8e-3}, 0.25, 0.88, 1.30),
    ("causes", {"method": "lora", "rank": 8, "alpha": 64.0, "lr": 2e-3}, 0.24, 0.89, 1.10),
    ("causes", {"method": "lora", "rank": 8, "alpha": 16.0, "lr": 2e-3, "max_train_samples": 200}, 0.2, 0.8, 0.8),
    ("causes", {"method": "lora", "rank": 8, "alpha": 16.0, "lr": 2e-3, "weight_decay": 0.1}, 0.10, 0.9, 0.4),
    ("causes", {"method": "lora-fa", "rank": 8, "alpha": 16.0, "lr": 2e-3, "init_a": "orthonormal"}, 0.05, 0.9, 0.3),
    ("causes", {"method": "lora+", "rank": 8, "alpha": 16.0, "lr": 2e-3}, 0.11, 0.9, 0.4),
]  # fmt: skip
TASKS = ["topics-1", "topics-2", "topics-3"]


def made_up_study(folder: Path, name: str = "made-up", audits: bool = True) -> Results:
    """Results with every table filled; writes them, and the audits of the runs, to `folder`."""
    rng = np.random.default_rng(7)
    tables: Rows = {table: [] for table in COLUMNS}
    for seed in SEEDS:
        for planted in RUNS:
            _fill_run(tables, folder, rng, seed, planted, audits)
        for rank, loss in ((1, 0.3), (8, 0.1)):
            _fill_sequence(tables, rng, seed, rank, loss)
        _fill_mechanism(tables, rng, seed)
    failed, settings = "failed-lora-rank4096-seed0-0badcafe", {"method": "lora", "rank": 4096}
    error = "rank 4096 is above <b>576</b>, the smaller side of q_proj"
    row = _row(failed, "matched", "finetune", settings, 0) | {"status": "failed", "error": error}
    tables["runs"].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        (folder / f"{table}.parquet").write_bytes(to_parquet(table, rows))
    (folder / "study.yaml").write_text(f"name: {name}\nseeds: [0,1,2]\nexperiments:\n  matched: </script>\n")
    (folder / "study.json").write_text(json.dumps({"schema": 1, "name": name}))
    return dataclasses.replace(study(**tables), folder=folder, name=name)


def around(name: str, value: float, half: float) -> dict[str, float]:
    """A column with the ends of its interval."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _row(run_id: str, experiment: str, kind: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    config = FinetuneConfig(
        base="smollm2-135m", task="word-problems", out="", steps=120, **settings, seed=seed
    ).as_dict()
    flat = {key: ",".join(map(str, item)) if isinstance(item, list) else item for key, item in config.items()}
    named = {"run_id": run_id, "experiment": experiment, "kind": kind, "status": "finished"}
    of_adapters = (
        dict.fromkeys(ADAPTER_ONLY) if settings["method"] == "full" else {"alpha": str(flat["alpha"])}
    )
    return flat | named | of_adapters


def _fill_run(
    tables: Rows, folder: Path, rng: np.random.Generator, seed: int, planted: Planted, audits: bool
) -> None:
    experiment, settings, rate, accuracy, change = planted
    rank = None if settings["method"] == "full" else int(settings["rank"])
    varied = "-".join(f"{key}{value}" for key, value in settings.items() if key != "method")
    run_id = f"{experiment}-{settings['method']}-{varied}-seed{seed}"
    rate = rate and float(rate * rng.uniform(0.85, 1.15))
    number = seed * 100 + len(tables["runs"])
    audit = made_up_audit(LAYERS, width=96, intruder_rate=rate, rank=rank, tuned=run_id, seed=number)
    if audits:
        (folder / "runs" / run_id).mkdir(parents=True, exist_ok=True)
        audit.save(folder / "runs" / run_id / "audit.json")
    accuracy = accuracy + float(rng.normal(0, 0.004))
    change = change + 0.1 * float(rng.normal(0, 0.3))
    tables["runs"].append(
        _row(run_id, experiment, "finetune", settings, seed)
        | {
            "seconds": float(rng.uniform(60, 300)), "trained_steps": 120 + 10 * seed,
            "match": "accuracy=0.90" if experiment == "matched" else None,
            "stopped_by": "match" if experiment == "matched" else "steps",
            "validation_accuracy": accuracy, **around("accuracy", accuracy, 0.03),
            "corpus": "pydoc", "loss_measure": "cross-entropy", "base_loss": 2.93, "loss": 2.93 + change,
            **around("loss_change", change, 0.05), "k": audit.k, "epsilon": audit.epsilon,
            "intruders": audit.intruders, "vectors": audit.vectors, "matrices": len(audit.matrices),
            "affected_matrices": sum(matrix.intruders > 0 for matrix in audit.matrices),
            "intruder_energy_share": audit.intruder_energy_share,
            "update_frobenius": 8 + 40 * rate + float(rng.normal(0, 0.5)), "relative_update": 0.1 + rate,
            "effective_rank": float(np.mean([m.update.effective_rank for m in audit.matrices])),
            "critical_scale": 0.2 if rate else 4.0, "kl_prompts": max(0.0, change) * (1 + 0.1 * seed),
        }
    )  # fmt: skip
    tables["attributions"] += [
        {
            "run_id": run_id, "name": matrix.name, "corpus": "pydoc", "rise": change,
            "part": change * (1 + matrix.intruders) / len(audit.matrices),
            "part_of_intruders": 0.1 * change if matrix.intruders else None,
            "intruders": matrix.intruders, "frobenius": matrix.update.frobenius,
        }
        for matrix in audit.matrices
    ]  # fmt: skip
    of_run: Any = audit.matrices_to_pandas().to_dict("records")
    for row in of_run:
        predicted = float(rng.lognormal(0.6 - 0.7 * row["intruders"], 0.4))
        tables["matrices"].append(
            row
            | {
                "run_id": run_id,
                "kind": row["name"].split(".")[-2],
                "layer": int(row["name"].split(".")[2]),
                "critical_scale": predicted * float(rng.lognormal(0, 0.25)) if rate else np.inf,
                "predicted_scale": predicted,
            }
        )
    tables["vectors"] += audit.to_pandas().assign(run_id=run_id).to_dict("records")  # type: ignore[arg-type]
    if rate and experiment == "matched":
        tables["interventions"] += _interventions(rng, run_id, accuracy, change)
    if experiment == "matched":
        tables["traces"] += _traces(rng, run_id, audit.intruders)
        tables["remedies"] += comparisons(tables["runs"][-1:], {"lines": 0.2, "trim": -0.1})


def _interventions(rng: np.random.Generator, run_id: str, accuracy: float, change: float) -> Iterator[Row]:
    for measure, on, start, whole, base in (
        ("loss", "pydoc", 2.93 + change, -0.8 * change, 2.93),
        ("accuracy", "word-problems", accuracy, -0.02, np.nan),
    ):
        common = {"run_id": run_id, "measure": measure, "on": on, "base_value": base}

        def row(control: str, scale: float, moved: float, common: Row = common, start: float = start) -> Row:
            changed = {"value": start + moved, **around("change", moved, 0.01)}
            return common | {"control": control, "scale": scale} | changed

        yield row("intruders", 1.0, 0.0)
        for scale in (0.0, 0.25, 0.5, 0.75):
            of_intruders = whole * (1 - scale) + float(rng.normal(0, 0.004))
            yield row("intruders", scale, of_intruders)
            for control, part in (("shrink", 0.6), ("random", 0.1)):
                against = around("against_intruders", (part - 1) * of_intruders, 0.01)
                yield row(control, scale, part * of_intruders) | against


def _traces(rng: np.random.Generator, run_id: str, intruders: int) -> Iterator[Row]:
    for step in range(20, 121, 20):
        for layer in range(LAYERS):
            now = int(intruders * max(0, step - 40) / 80 / LAYERS)
            yield {
                "run_id": run_id, "step": step, "name": f"model.layers.{layer}.mlp.down_proj.weight",
                "intruders": now, "vectors": 10, "intruder_energy_share": now / 12,
                "frobenius": 0.1 * step**0.5, "base_largest_value": 30.0,
                "largest_intruder_value": 5 + 0.1 * step + float(rng.normal(0, 0.1)) if now else None,
            }  # fmt: skip


def _fill_sequence(tables: Rows, rng: np.random.Generator, seed: int, rank: int, loss: float) -> None:
    run_id = f"in-sequence-lora-rank{rank}-seed{seed}-{rank:08x}"
    settings = {"method": "lora", "rank": rank, "alpha": 16.0}
    tables["runs"].append(_row(run_id, "in-sequence", "sequence", settings, seed) | {"task": ",".join(TASKS)})
    for stage in range(len(TASKS)):
        for task in range(stage + 1):
            accuracy = 0.9 - loss * (stage - task) + float(rng.normal(0, 0.01))
            intruders = int((stage + 1) * 40 / rank**0.5)
            tables["sequences"].append(
                {
                    "run_id": run_id, "stage": stage, "task_index": task, "task": TASKS[task],
                    "accuracy": accuracy, "intruders": intruders, "vectors": 280,
                }
            )  # fmt: skip


def _fill_mechanism(tables: Rows, rng: np.random.Generator, seed: int) -> None:
    run_id = f"mechanism-seed{seed}-abcdef01"
    named = {"run_id": run_id, "experiment": "mechanism", "kind": "random-rank-one", "status": "finished"}
    tables["runs"].append(named | {"base": "smollm2-135m", "seed": seed})
    for layer in range(12):
        critical = float(rng.uniform(0.25, 0.6))
        for multiple in (0.1, 0.2, 0.5, 1.0, 2.0):
            tables["mechanism"].append(
                {
                    "run_id": run_id, "name": f"model.layers.{layer}.self_attn.q_proj.weight",
                    "rows": 576, "columns": 576, "multiple": multiple,
                    "predicted_multiple": critical * float(rng.lognormal(0, 0.2)),
                    "intruders": int(multiple > critical),
                }
            )  # fmt: skip


def without(results: Results, *tables: str) -> Results:
    empty = {table: getattr(results, table).iloc[:0] for table in tables}
    return dataclasses.replace(results, **empty)
