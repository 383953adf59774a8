"""Tasks of lm-evaluation-harness on a model that is already open."""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import SettingError, missing_extra
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel
from ..system.digests import digest_of_file, json_digest
from ..system.notes import errors_only
from .measure_settings import HarnessSettings

_BATCH = 8


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one harness task."""

    task: str
    metric: str  # with its filter where that is not "none": "exact_match,strict"
    value: float
    standard_error: float | None


def harness_scores(
    opened: OpenedModel, settings: HarnessSettings, *, limit: int | None, seed: int
) -> list[HarnessScore]:
    """Run the tasks by name, on the first ``limit`` examples of each.

    Raises MissingDependencyError without lm_eval, SettingError for a task that it does not know, and a masked model.
    """
    evaluated = _evaluated(opened, settings, limit, seed, log_samples=False)
    return [score for task, values in evaluated["results"].items() for score in _scores(task, values)]


def harness_items(
    opened: OpenedModel, settings: HarnessSettings, *, limit: int | None, seed: int
) -> dict[str, list[float]]:
    """Return the scores of all examples by task, from its first metric per example that rises with better answers.

    A group is replaced by its tasks. Raises SettingError for a task without such a metric.
    """
    evaluated = _evaluated(opened, settings, limit, seed, log_samples=True)
    return {
        task: _items(task, examples, evaluated["higher_is_better"].get(task, {}))
        for task, examples in evaluated["samples"].items()
    }


def check_harness(settings: HarnessSettings) -> None:
    """Raise what :func:`harness_scores` raises for the tasks, before any model is loaded."""
    with quiet_transformers(), _quiet_harness():
        _manager(settings)


def digest_of_own_tasks(settings: HarnessSettings) -> str | None:
    """Return a hash of every file in the folder of the user's own tasks, without data in other folders.

    Raises SettingError if it is not a folder: the harness would read its own task of that name instead.
    """
    if settings.lm_eval_include is None:
        return None
    folder = Path(settings.lm_eval_include)
    if not folder.is_dir():
        raise SettingError(
            f"lm_eval_include is {settings.lm_eval_include!r}, which is not a folder; expected the folder of your own "
            "tasks; pass its path"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json_digest([[str(file.relative_to(folder)), digest_of_file(file)] for file in files])


def _evaluated(
    opened: OpenedModel, settings: HarnessSettings, limit: int | None, seed: int, *, log_samples: bool
) -> Any:
    if opened.is_masked:
        raise SettingError("the tasks of lm-evaluation-harness are for causal models; this one is masked")
    with quiet_transformers(), _quiet_harness():
        manager = _manager(settings)
        import lm_eval  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from lm_eval.models import huggingface  # type: ignore[import-untyped,import-not-found,unused-ignore]

        drawn = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
        return lm_eval.simple_evaluate(
            model=huggingface.HFLM(pretrained=opened.model, tokenizer=opened.tokenizer, batch_size=_BATCH),
            tasks=list(settings.lm_eval),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=1000,
            log_samples=log_samples,
            **dict.fromkeys(drawn, seed),
        )


def _manager(settings: HarnessSettings) -> Any:
    """Return the harness's register of tasks, and require that it has all requested tasks."""
    include, digest = settings.lm_eval_include, digest_of_own_tasks(settings)
    try:
        from lm_eval.tasks import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            TaskManager,
        )
    except ImportError as error:
        raise missing_extra("--lm-eval", "lm_eval", "lm-eval") from error
    manager = _register(TaskManager, include, digest, only_own=include is not None)
    # A group of one's own may name the harness's tasks.
    if not set(settings.lm_eval) <= set(manager.all_subtasks):
        manager = _register(TaskManager, include, digest, only_own=False)
    unknown = [task for task in settings.lm_eval if not manager.match_tasks([task])]
    if unknown:
        raise SettingError(f"lm-evaluation-harness has no task {unknown[0]!r}; see: lm_eval ls tasks")
    return manager


@lru_cache(maxsize=2)
def _register(task_manager: Any, include: str | None, digest: str | None, *, only_own: bool) -> Any:
    """Return the register, cached by the ``digest`` of the user's own tasks: reading all tasks takes seconds."""
    return task_manager(include_path=include, include_defaults=not only_own)


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Silence the harness: its bars need a terminal, and its advice concerns settings that we have chosen."""
    bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    with errors_only("lm_eval"), bars:
        yield


def _scores(task: str, values: dict[str, Any]) -> list[HarnessScore]:
    """Return the scores of a task from the harness's pairs "metric,filter" and "metric_stderr,filter"."""
    scores = []
    for key, value in values.items():
        metric, _, chosen = key.partition(",")
        if not isinstance(value, int | float) or metric.endswith("_stderr") or metric == "sample_len":
            continue
        error = values.get(f"{metric}_stderr,{chosen}")
        known = float(error) if isinstance(error, int | float) else None
        scores.append(HarnessScore(task, metric if chosen in ("", "none") else key, float(value), known))
    return scores


def _items(task: str, examples: Sequence[dict[str, Any]], rises: dict[str, bool]) -> list[float]:
    # Every filter of the answers has its own record of an example; the first filter is the task's own choice.
    chosen = [sample for sample in examples if sample["filter"] == examples[0]["filter"]]
    for metric in chosen[0]["metrics"] if chosen else []:
        values = [sample[metric] for sample in chosen]
        if rises.get(metric) and all(isinstance(value, int | float) for value in values):
            ordered = sorted(chosen, key=lambda sample: sample["doc_id"])
            return [float(sample[metric]) for sample in ordered]
    raise SettingError(
        f"task {task!r} of lm-evaluation-harness has no score for every example that is higher for a better answer, "
        "as acc is; choose another task"
    )
