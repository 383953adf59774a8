"""Rows of made-up studies in which the truth is planted, for tests of the analyses."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intruders.studies.runs import expand
from intruders.studies.study_folder import StudyFolder
from intruders.studies.tables import COLUMNS, to_parquet
from tests.research.parsed import parsed
from tests.studies.planted import noise, run


def study_folder(
    folder: Path, document: Mapping[str, Any] | None = None, **tables: Sequence[dict[str, Any]]
) -> Path:
    """Write the folder of a study with these rows, as `intruders study` leaves it."""
    experiment = {"base": "tiny", "task": "word-problems", "steps": 9}
    described = parsed({"name": folder.name, "experiments": {"m": experiment}, **(document or {})})
    folder.mkdir(exist_ok=True)
    StudyFolder(folder).keep(described, expand(described))
    for table in COLUMNS:
        StudyFolder(folder).table(table).write_bytes(to_parquet(table, list(tables.get(table, []))))
    return folder


def around(column: str, value: float) -> dict[str, float]:
    """A column with the ends of its interval."""
    return {column: value, f"{column}_low": value - 0.05, f"{column}_high": value + 0.05}


def matched(
    *, seeds: int = 3, effect: float = 1.0, base: str = "tiny", task: str = "words", **changes: Any
) -> list[dict[str, Any]]:
    """LoRA of ranks 1 to 16 and full fine-tuning. ``effect`` 1: low ranks have intruders, and these cost loss; 0: none
    of it; -1: the other way round."""
    rows = []
    for seed in range(seeds):
        for rank in (1, 2, 4, 8, 16, None):
            more = 5 * (4 - math.log2(rank)) if rank else -20  # intruders, where the effect is 1
            count = max(0, round(20 + effect * more + noise(seed, rank, base, size=1.5)))
            name = f"lora-{rank}" if rank else "full"
            row = run(
                f"{base}-{task}-{name}-{seed}",
                base=base,
                task=task,
                method="lora",
                rank=rank,
                seed=seed,
                intruders=count,
                affected_matrices=min(20, count),
                intruder_energy_share=count / 400,
                loss_change=0.1 + 0.01 * effect * (count - 20) + noise("loss", seed, rank, base, size=0.005),
                update_frobenius=3 + noise("norm", seed, rank, base),
                effective_rank=(0.7 + noise("spread", seed, rank, base, size=0.02)) * (rank or 60),
            )
            if rank is None:
                row |= {"method": "full", "alpha": None, "lr": 5e-5}
            rows.append(row | changes)
    return rows


def interventions(
    runs: list[dict[str, Any]], *, change: float = -0.3, against: float = 0.2, score: float = -0.01
) -> list[dict[str, Any]]:
    """A sweep at scales 0 and 0.5 for every LoRA run with intruders; ``against``: how much worse controls do."""
    rows = []
    for of in runs:
        if not of["intruders"]:
            continue
        for measure, on, moved, other in (
            ("loss", "pydoc", change, against),
            ("accuracy", of["task"], score, score),
        ):
            common = {"run_id": of["run_id"], "measure": measure, "on": on, "base_value": None}
            rows.append(common | {"control": "intruders", "scale": 1.0, "value": 3.0, "change": 0.0})
            for scale in (0.0, 0.5):
                own = (moved + noise(of["run_id"], measure, scale, size=0.01)) * (1 - scale) * 1.5
                scaled = common | {"control": "intruders", "scale": scale, "value": 3.0 + own}
                rows.append(scaled | around("change", own))
                for control in ("shrink", "random"):
                    gap = other + noise(of["run_id"], control, scale, size=0.01)
                    row = common | {"control": control, "scale": scale, "value": 3.0 + own + gap}
                    rows.append(row | around("change", own + gap) | around("against_intruders", gap))
    return rows


def sequence_study(*, seeds: int = 3, effect: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """Three tasks in sequence. ``effect`` 1: low ranks forget more, intruders accumulate; 0: neither; -1: reversed."""
    runs, rows = [], []
    for seed in range(seeds):
        for method, rank in (("lora", 1), ("lora", 4), ("lora", 16), ("full", None)):
            run_id = f"sequence-{method}-{rank}-{seed}"
            depth = 4 - math.log2(rank) if rank else 0.0
            runs.append(
                run(
                    run_id,
                    kind="sequence",
                    task="a,b,c",
                    method=method,
                    rank=rank,
                    seed=seed,
                )
            )
            lost = 0.05 + 0.02 * effect * depth + noise(run_id, size=0.004)
            for stage in range(3):
                for index in range(stage + 1):
                    rows.append(
                        {
                            "run_id": run_id,
                            "stage": stage,
                            "task_index": index,
                            "task": "abc"[index],
                            "accuracy": 0.9 - lost * (stage - index),
                            "intruders": max(0, round(20 + 6 * effect * stage + noise(run_id, stage))),
                            "vectors": 200,
                            "trained_steps": 40,
                            "reached": True,
                        }
                    )
    return {"runs": runs, "sequences": rows}


def trace(run_id: str, counts: list[int], norms: list[float], values: list[float]) -> list[dict[str, Any]]:
    """Audits at steps 10, 20, ... of two matrices; ``values`` of the leading intruder of the first."""
    rows = []
    for at, (count, norm, value) in enumerate(zip(counts, norms, values, strict=True)):
        for name, share in (("layers.0.q_proj.weight", 0.6), ("layers.1.q_proj.weight", 0.8)):
            first = name.startswith("layers.0")
            rows.append(
                {
                    "run_id": run_id,
                    "step": 10 * (at + 1),
                    "name": name,
                    "intruders": count if first else 0,
                    "vectors": 10,
                    "intruder_energy_share": 0.0,
                    "frobenius": share * norm,
                    "largest_intruder_value": value if first and count else None,
                    "base_largest_value": 10.0,
                }
            )
    return rows


def scales(run_id: str, *, quality: float = 1.0, matrices: int = 40) -> list[dict[str, Any]]:
    """Matrices with measured scales about 1; ``quality`` 1: predicted nearly as measured, 0: predicted at random."""
    rows = []
    for i in range(matrices):
        log_scale = noise(run_id, i)
        predicted = (
            quality * log_scale + (1 - quality) * noise("other", run_id, i) + noise("p", run_id, i, size=0.1)
        )
        rows.append(
            {
                "run_id": run_id,
                "name": f"layers.{i}.q_proj.weight",
                "kind": "q_proj",
                "layer": i,
                "intruders": int(log_scale <= 0),
                "vectors": 10,
                "critical_scale": math.exp(log_scale),
                "predicted_scale": math.exp(predicted),
            }
        )
    return rows


def attributed(
    run_id: str, weight: float, inside: float | None = 0.25, rise: float = 30.0
) -> list[dict[str, Any]]:
    """Thirty matrices whose parts of the loss rise follow their intruders with ``weight`` 1, and are noise with 0."""
    rows = []
    for number in range(30):
        count = number % 5 if inside is not None else 0
        rows.append(
            {
                "run_id": run_id,
                "name": f"layers.{number}.up_proj",
                "corpus": "pydoc",
                "part": weight * count + noise(run_id, number, size=0.5),
                "part_of_intruders": None if not count else inside,
                "intruders": count,
                "frobenius": 1 + noise("norm", run_id, number, size=0.1),
                "rise": rise,
            }
        )
    return rows


def fixed(run_id: str, **changes: Any) -> dict[str, Any]:
    """A run of another task, trained for a fixed number of steps."""
    return run(run_id, task="other", match=None, stopped_by="steps") | changes


def holds(effect: Any, truth: float) -> bool:
    """Whether the interval of a claim's effect has the truth in it."""
    return bool(effect.low <= truth <= effect.high)
