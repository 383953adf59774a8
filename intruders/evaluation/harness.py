"""Tasks of lm-evaluation-harness on a model that is already open."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError, missing_extra
from ..models.quiet import quiet_transformers
from ..models.tuned_model import OpenedModel


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one harness task."""

    task: str
    metric: str  # with its filter where that is not "none": "exact_match,strict"
    value: float
    standard_error: float | None


def harness_scores(
    opened: OpenedModel,
    tasks: Sequence[str],
    *,
    include: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> list[HarnessScore]:
    """Runs ``tasks`` by name; ``include`` is a folder with task files of one's own.

    Raises MissingDependencyError without the package lm_eval, SettingError for a task that it does not know
    and for a masked model.
    """
    try:
        import lm_eval  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from lm_eval.models.huggingface import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            HFLM,
        )
        from lm_eval.tasks import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            TaskManager,
        )
    except ImportError as error:
        raise missing_extra("--lm-eval", "lm_eval", "lm-eval") from error
    if opened.is_masked:
        raise SettingError("the tasks of lm-evaluation-harness are for causal models; this one is masked")
    with quiet_transformers(), _quiet_harness():
        manager = TaskManager(include_path=None if include is None else str(include))
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if unknown:
            raise SettingError(f"lm-evaluation-harness has no task {unknown[0]!r}; see: lm_eval ls tasks")
        found: Any = lm_eval.simple_evaluate(
            model=HFLM(pretrained=opened.model, tokenizer=opened.tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=1000,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            log_samples=False,
        )
    return [score for task, values in found["results"].items() for score in _scores(task, values)]


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Its bars are for terminals alone, and what it advises concerns its own settings, which we have chosen."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _scores(task: str, values: dict[str, Any]) -> list[HarnessScore]:
    """The harness writes "metric,filter" and "metric_stderr,filter" side by side."""
    found = []
    for key, value in values.items():
        metric, _, chosen = key.partition(",")
        if not isinstance(value, int | float) or metric.endswith("_stderr") or metric == "sample_len":
            continue
        error = values.get(f"{metric}_stderr,{chosen}")
        found.append(
            HarnessScore(
                task,
                metric if chosen in ("", "none") else key,
                float(value),
                float(error) if isinstance(error, int | float) else None,
            )
        )
    return found
