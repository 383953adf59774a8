"""A base and an adapter of it with intruders, which interventions are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intruders.audits.audit_settings import Compute
from intruders.experiments.experiment_settings import SweepSettings
from intruders.experiments.intervene import intervene
from intruders.experiments.sweep import InterventionSweep
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.mitigation.mitigate import mitigate

NO_CACHE = Compute(cache=False)


def text_of(folder: Path) -> LossSettings:
    return LossSettings((str(folder / "texts.jsonl"),))


def sums_of(folder: Path, **more: Any) -> ScoreSettings:
    task = f"{folder / 'task.jsonl'}?prompt=q&completion=a"
    return ScoreSettings(tasks=(task,), max_examples=3, max_new_tokens=4, **more)


def swept(
    folder: Path, scales: tuple[float, ...] = (0.0,), controls: tuple[str, ...] = (), **changes: Any
) -> InterventionSweep:
    given = {
        "sweep": SweepSettings(scales, controls),
        "losses": text_of(folder),
        "compute": NO_CACHE,
        **changes,
    }
    return intervene(str(folder / "base"), str(folder / "tuned"), **given)


def write(folder: Path, out: Path, **change: Any) -> Path:
    """Write the tuned model, or what a change makes of it."""
    given = {"form": "checkpoint", "check": False, "compute": NO_CACHE, **change}
    mitigate(folder / "base", folder / "tuned", out=out, **given)
    return out
