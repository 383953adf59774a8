"""The progress of a training: a bar on a terminal, occasional lines elsewhere, or a call of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """Steps done, steps to do, and the latest loss."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        console = Console(stderr=True)
        if state.global_step:
            print(f"resuming from step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("", total=state.max_steps, completed=state.global_step, loss="")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            # Of the steps since the log before: it comes after a step's end, and stays until the next.
            self._loss = f"loss {float(logs['loss']):.3f} up to step {state.global_step}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step, loss=self._loss)
        elif state.global_step % max(1, state.max_steps // 10) == 0:
            said = f"step {state.global_step}/{state.max_steps} {self._loss}".rstrip()
            print(said, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.stop()


class ReportSteps(TrainerCallback):  # type: ignore[misc]
    """Call ``on_step`` with (steps done, steps at most)."""

    def __init__(self, on_step: Callable[[int, int], None]) -> None:
        self._on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_step(state.global_step, state.max_steps)
