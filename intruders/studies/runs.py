"""From a study to its runs: every combination of a grid, under an id that tells it apart and stays the same.

An id such as ``matched-word-problems-lora-rank8-alpha16-lr0.001-seed0-3f9a1c2e`` ends in a hash over every setting
that is not its default. It depends on that run alone, so that a study that grows keeps the runs that it has; what is
measured is no part of it, so that a new measure trains nothing again.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..settings import settings_of
from ..training.finetune_config import ADAPTER_ONLY, FinetuneConfig
from .study import Experiment, Measure, Study


@dataclass(frozen=True)
class Run:
    """One run of a study, with all that it takes to perform it."""

    id: str
    experiment: str
    kind: str
    seed: int
    base: str
    measure: Measure
    config: FinetuneConfig | None = None  # None where nothing is trained
    tasks: tuple[str, ...] = ()
    adapters: str = "merge"
    retrain_heads: bool = False
    multiples: tuple[float, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """The tasks of a sequence, or the one task; none where nothing is trained."""
        return self.tasks or (() if self.config is None else (self.config.task,))

    @property
    def texts(self) -> list[str]:
        """The corpora that the run is measured on, then or while it trains, and the one that its training replays."""
        texts = list(self.measure.loss_on)
        if self.config is not None:
            named = (self.config.replayed_corpus, self.config.loss_on)
            texts += [name for name in named if name is not None]
        return texts

    def settings(self) -> dict[str, Any]:
        """Return everything that a result depends on, except measures, as plain JSON values."""
        settings: dict[str, Any] = {"kind": self.kind, "base": self.base, "seed": self.seed}
        if self.config is not None:
            settings["config"] = {k: value for k, value in self.config.changed().items() if k != "out"}
        if self.kind == "sequence":
            settings |= {"tasks": list(self.tasks), "adapters": self.adapters}
            settings |= {"retrain_heads": True} if self.retrain_heads else {}
        if self.kind == "random-rank-one":
            settings |= {"multiples": list(self.multiples), "audit": self.measure.audit.recorded()}
            settings |= {"include": list(self.include), "exclude": list(self.exclude)}
        return settings

    @property
    def digest(self) -> str:
        """The SHA-256 of the experiment's name and the settings; a run's id ends in its first eight digits."""
        content = json.dumps(self.settings(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(f"{self.experiment}\n{content}".encode()).hexdigest()

    def description(self) -> dict[str, Any]:
        """Return what a run is, as plain JSON values; its record begins with them."""
        return {
            "id": self.id,
            "experiment": self.experiment,
            "kind": self.kind,
            "seed": self.seed,
            "base": self.base,
            "config": None if self.config is None else self.config.as_dict() | {"out": "model"},
            "tasks": list(self.tasks),
        }


def expand(study: Study) -> list[Run]:
    """Return all runs, seed by seed, so that the first part of a study is a study already."""
    runs: dict[str, Run] = {}
    for run in (run for experiment in study.experiments for run in _runs_of(experiment)):
        if run.id in runs:
            raise SettingError(
                f"study {study.name!r}: two runs are the same, {run.id!r} (experiment {run.experiment!r}); "
                "remove a method or a value that its grid has twice"
            )
        runs[run.id] = run
    seeds = list(dict.fromkeys(seed for experiment in study.experiments for seed in experiment.seeds))
    return sorted(runs.values(), key=lambda run: seeds.index(run.seed))


def _runs_of(experiment: Experiment) -> Iterator[Run]:
    known = settings_of(FinetuneConfig)
    # The tasks of a sequence come in every order that the study lists.
    orders = [tuple(experiment.tasks[index] for index in order) for order in experiment.orders]
    for number, method in enumerate(experiment.methods, start=1):
        where = f"experiment {experiment.name!r}"
        where += "" if experiment.kind == "random-rank-one" else f", method {number}"
        choices = []
        for name, value in (experiment.settings | method).items():
            # Of a setting that is a list itself, a grid is a list of lists.
            is_list = name in known and known[name].is_list
            is_grid = isinstance(value, list) and (
                not is_list or any(isinstance(each, list) for each in value)
            )
            if is_grid and not value:
                raise SettingError(
                    f"{where}: {name} is an empty list, so the study has no runs; pass a value"
                )
            choices.append([(name, item) for item in (value if is_grid else [value])])
        every = itertools.product(itertools.product(*choices), orders or [experiment.tasks], experiment.seeds)
        for settings, tasks, seed in every:
            yield _run(replace(experiment, tasks=tasks), dict(settings), seed, where)


def _run(experiment: Experiment, settings: dict[str, Any], seed: int, where: str) -> Run:
    config = None
    if experiment.kind != "random-rank-one":
        # What every stage of a sequence replaces by its own.
        task = {"task": experiment.tasks[0]} if experiment.kind == "sequence" else {}
        config = FinetuneConfig.from_mapping(settings | task | {"seed": seed, "out": "."}, where)
        if config.method == "full":
            known = settings_of(FinetuneConfig)
            config = replace(config, **{name: known[name].default for name in ADAPTER_ONLY})
    base = settings["base"] if config is None else config.base
    own = {field.name for field in fields(Run)}
    shared = {name: value for name, value in vars(experiment).items() if name in own}
    run = Run("", experiment.name, seed=seed, base=base, config=config, **shared)
    parts = [_slug(run.experiment), *_spelled(run), f"seed{run.seed}", run.digest[:8]]
    return replace(run, id="-".join(part for part in parts if part))


def _spelled(run: Run) -> Iterator[str]:
    config = run.config
    if config is None:
        yield _slug(Path(run.base).name)
        return
    if run.kind == "finetune":
        yield _slug(Path(config.task.partition("?")[0]).stem)
    yield config.method
    if config.method != "full":
        alpha = config.alpha if isinstance(config.alpha, str) else f"{config.alpha:g}"
        yield f"rank{config.rank}-alpha{_slug(alpha)}"
    yield f"lr{config.lr:g}"
    spelled = [setting for setting in settings_of(FinetuneConfig).values() if setting.in_id is not None]
    # Texts, then numbers, then switches: as ids always had them.
    for setting in sorted(spelled, key=lambda setting: (bool in setting.kinds, str not in setting.kinds)):
        value = getattr(config, setting.name)
        if setting.in_id is not None and value != setting.default:
            yield setting.in_id.format(value)


def _slug(text: str) -> str:
    """Keep only what is safe in the name of a folder, on every system and in a URL."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:32].strip("-.") or "x"
