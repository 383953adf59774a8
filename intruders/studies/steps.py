"""How far the training of a run is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class ReportSteps(TrainerCallback):  # type: ignore[misc]
    """Calls ``on_step`` with (steps done, steps at most)."""

    def __init__(self, on_step: Callable[[int, int], None]) -> None:
        self._on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_step(state.global_step, state.max_steps)
