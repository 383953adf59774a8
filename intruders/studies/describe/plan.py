"""The plan of a study before it runs: every run with its settings, and the amount of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...experiments.experiment_settings import INTERPOLATE, REMEDIES, SweepSettings
from ...experiments.yardstick import ALPHAS
from ...measures.measure_settings import LossSettings
from ...mitigation.remedies.remedy_table import INTRUDERS
from ...system.words import plural
from .runs import Run

_ALWAYS = ("base", "task", "method", "rank", "alpha", "lr")
_HIDDEN = {"out", "seed"}


@dataclass(frozen=True)
class Plan:
    """A table of runs, one row each, and the amount of work in words."""

    columns: list[str]
    rows: list[list[str]]
    amounts: list[str]


def plan(runs: Sequence[Run]) -> Plan:
    """List the runs in their order, with the usual settings and those in which runs differ."""
    configs = [run.description()["config"] or {} for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config if name not in _HIDDEN))
    differing = [name for name in names if len({str(config.get(name)) for config in configs if config}) > 1]
    shown = [name for name in names if name in _ALWAYS or name in differing]
    rows = []
    for run, config in zip(runs, configs, strict=True):
        values = dict(config)
        if run.kind == "sequence":
            values["task"] = " > ".join(run.tasks)
        if not config:
            values["base"] = run.base
        if config.get("method") == "full":
            values |= {"rank": None, "alpha": None}
        cells = ["" if values.get(name) in (None, []) else _text(values[name]) for name in shown]
        rows.append([run.id, run.kind, str(run.seed), *cells])
    return Plan(["run", "kind", "seed", *shown], rows, _amounts(runs))


def _amounts(runs: Sequence[Run]) -> list[str]:
    kinds = Counter(run.kind for run in runs)
    seeds = len({run.seed for run in runs})
    by_kind = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    amounts = [f"{len(runs):,} runs ({by_kind}) over {plural(seeds, 'seed')}"]
    trained = [run for run in runs if run.config is not None]
    steps = sum((run.config.steps or 0) * max(1, len(run.tasks)) for run in trained if run.config is not None)
    by_epochs = sum(run.config is not None and run.config.epochs is not None for run in trained)
    if trained:
        parts = [f"up to {steps:,} steps"] if steps else []
        parts += [f"{by_epochs:,} runs by epochs"] if by_epochs else []
        amounts.append(f"training: {' and '.join(parts)}")
    tuned = [run for run in runs if run.kind == "finetune"]
    losses = sum(len(run.measure.loss_on) for run in tuned)
    bases = {(run.base, run.measure.part(LossSettings)) for run in tuned if run.measure.loss_on}
    if losses:
        amounts.append(
            f"pre-training losses: {losses:,} of runs, and {len(bases):,} of bases, measured once each"
        )
    swept = [run.measure.intervene for run in tuned if run.measure.intervene is not None]
    if swept:
        points = sum(map(models_of_sweep, swept))
        amounts.append(
            f"interventions: up to {points:,} measured models in {len(swept):,} runs; none in a run without intruders"
        )
    compared = [run.measure.remedies for run in tuned if run.measure.remedies is not None]
    if compared:
        remedies = max(len(comparison.only or REMEDIES) for comparison in compared)
        strengths = max(comparison.strengths for comparison in compared)
        amounts.append(
            f"comparisons of remedies: at most {plural(remedies * strengths, 'strength')} in each of "
            f"{plural(len(compared), 'run')}"
        )
    outputs = sum(run.measure.output_energy for run in tuned)
    if outputs:
        amounts.append(f"output energies: {outputs:,} runs")
    for what, count in (
        ("KL to the base", sum(run.measure.kl_to_base is not None for run in tuned)),
        ("attributions", sum(run.measure.attribute is not None for run in tuned)),
    ):
        if count:
            amounts.append(f"{what}: {count:,} runs")
    scales = sum(run.measure.critical_scale for run in tuned)
    if scales:
        amounts.append(f"critical scales: {scales:,} runs")
    return amounts


def models_of_sweep(sweep: SweepSettings) -> int:
    """Count the measured models; interpolation is one curve, not a point at every scale."""
    controls = set(sweep.controls) - {INTERPOLATE, INTRUDERS}  # intruders are scaled anyway
    curve = len(ALPHAS) if INTERPOLATE in sweep.controls else 0
    return 1 + curve + len(set(sweep.scales) - {1.0}) * (1 + len(controls))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
