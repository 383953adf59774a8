"""The stages of a run, in the order in which they are done, and the plan of a study by them."""

from collections import Counter
from collections.abc import Sequence

from ..system.words import plural
from .audit_stages import AUDIT, MECHANISM, SCALE
from .experiment_stages import ATTRIBUTE, INTERVENE, REMEDIES
from .measure_stages import EVALUATE, KL, OUTPUTS
from .runs import Run
from .stage import Stage
from .train_stages import SEQUENCE, TRAIN

# What is added here is a stage of every study whose measures ask for it.
STAGES = (
    TRAIN, AUDIT, EVALUATE, OUTPUTS, KL, ATTRIBUTE, SCALE, INTERVENE, REMEDIES, SEQUENCE, MECHANISM,
)  # fmt: skip
_ALWAYS = ("base", "task", "method", "rank", "alpha", "lr")
_HIDDEN = {"out", "seed"}


def stages_of(run: Run) -> list[Stage]:
    return [stage for stage in STAGES if stage.is_of(run)]


def table_of(runs: Sequence[Run]) -> list[list[str]]:
    """List the runs in their order below a line of names: the usual settings, and those in which runs differ."""
    configs = [run.description()["config"] or {} for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config if name not in _HIDDEN))
    differing = [name for name in names if len({str(config.get(name)) for config in configs if config}) > 1]
    shown = [name for name in names if name in _ALWAYS or name in differing]
    rows = [["run", "kind", "seed", *shown]]
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
    return rows


def amounts_of(runs: Sequence[Run]) -> list[str]:
    """Return the amount of work in words."""
    kinds = Counter(run.kind for run in runs)
    by_kind = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    amounts = [f"{len(runs):,} runs ({by_kind}) over {plural(len({run.seed for run in runs}), 'seed')}"]
    trained = [(run.config, max(1, len(run.tasks))) for run in runs if run.config is not None]
    if trained:
        steps = sum((config.steps or 0) * tasks for config, tasks in trained)
        by_epochs = sum(config.epochs is not None for config, _ in trained)
        parts = [f"up to {steps:,} steps"] if steps else []
        parts += [f"{by_epochs:,} runs by epochs"] if by_epochs else []
        amounts.append(f"training: {' and '.join(parts)}")
    for stage in STAGES:
        having = [run for run in runs if stage.is_of(run)]
        if having and (amount := stage.amount):
            amounts.append(f"{amount}: {len(having):,} runs" if isinstance(amount, str) else amount(having))
    return [amount for amount in amounts if amount]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
