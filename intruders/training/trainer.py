"""The Trainer of a run, and what ends a run early: a loss that is not a number, or the accuracy that was asked for."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from ..data.task import Task
from ..errors import NonFiniteError
from ..models.answers import outcomes
from .kl_to_base import KLToBase
from .replay import ReplaySampler
from .run_folder import RunFolder


class RunTrainer(Trainer):  # type: ignore[misc]
    """Trainer that stops at the step whose loss is NaN or infinite, before the optimizer sees it.

    With ``kl``, its loss is that of the task and a term for how far the model has moved from the base. ``order``, if
    given, is the order of the rows; otherwise each epoch has a random one.
    """

    def __init__(
        self, run: RunFolder, kl: KLToBase | None = None, order: ReplaySampler | None = None, **kwargs: Any
    ) -> None:
        self._order = order
        super().__init__(**kwargs)
        self._run = run
        self._kl = kl

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self._kl is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        away = self._kl(self.accelerator.unwrap_model(model), inputs, outputs.logits)
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            # The task's loss is a mean over all batches of a step already; this one is of its own batch.
            away = away / self.current_gradient_accumulation_steps
        loss = loss + away
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._kl is not None and "loss" in logs:
            logs = logs | self._kl.logged()
        super().log(logs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            good = self._run.last_checkpoint()
            kept = (
                f"the last good checkpoint is {str(good[0])!r}"
                if good
                else "no checkpoint was kept before it"
            )
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; {kept}; "
                "lower lr or raise warmup_steps"
            )
        return loss


class StopAtAccuracy(TrainerCallback):  # type: ignore[misc]
    """Score the validation split every ``every`` steps and stop when it reaches ``target``.

    Methods that are compared at the same task score are each stopped by this, at its own step.
    """

    def __init__(self, target: float, every: int, task: Task, tokenizer: Any, context: int) -> None:
        self.target, self.every = target, every
        self.task, self.tokenizer, self.context = task, tokenizer, context
        self.right: list[bool] = []  # outcomes of the latest look

    @property
    def has_stopped(self) -> bool:
        return bool(self.right) and sum(self.right) / len(self.right) >= self.target

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every:
            return
        self.right = outcomes(model, self.tokenizer, self.task, self.task.validation, context=self.context)
        accuracy = sum(self.right) / len(self.right)
        state.log_history.append({"step": state.global_step, "validation_accuracy": accuracy})
        if accuracy >= self.target:
            control.should_training_stop = True


class KeepRecord(TrainerCallback):  # type: ignore[misc]
    """Mark complete checkpoints, keep the log on disk, and count the seconds of training over all attempts."""

    def __init__(self, run: RunFolder, seconds_before: float) -> None:
        self.run = run
        self.seconds = seconds_before
        self._counted_to = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._counted_to = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count()

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._count()
        self.run.write_log(state.log_history)
        if control.should_training_stop:
            return  # resumed from here, Trainer would take another step, also where max_steps is reached
        trained = (p for p in model.parameters() if p.requires_grad)
        if all(bool(torch.isfinite(p).all()) for p in trained):
            self.run.mark_complete(state.global_step, self.seconds)

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._counted_to
        self._counted_to = now
