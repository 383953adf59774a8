"""The progress of a training: by a function such as that of a bar, or in occasional lines."""

import sys
from typing import Any

from transformers import TrainerCallback

from ..system.progress import Progress, silent


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """Steps done, steps to do, and the latest loss, by ``bar``, or in lines where there is none."""

    def __init__(self, bar: Progress = silent) -> None:
        self._bar = bar
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is silent and state.global_step:
            print(f"resuming from step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            # Of the steps since the log before: it comes after a step's end, and stays until the next.
            self._loss = f"loss {float(logs['loss']):.3f} up to step {state.global_step}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar(f"training {self._loss}".rstrip(), state.global_step, state.max_steps)
        if self._bar is silent and state.global_step % max(1, state.max_steps // 10) == 0:
            said = f"step {state.global_step}/{state.max_steps} {self._loss}".rstrip()
            print(said, file=sys.stderr, flush=True)
