"""The Trainer of a run, which ends at a loss that is not a number, and its callbacks: accuracy, record, progress."""

import inspect
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback

from ..errors import NonFiniteError
from ..models.answers import outcomes_until_decided
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.token_losses import in_single
from ..system.progress import Progress, silent
from .kl_to_base import KLToBase
from .prepared_run import PreparedRun
from .run_folder import RunFolder


class TargetTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss is the mean of ``-log p(target)`` over all targets of an optimizer step.

    The targets are a text's class, or a causal model's next tokens, over all batches of the step together. What a
    model of transformers returns as its loss is not that everywhere: a classifier's is a mean over its own batch,
    which Trainer adds up as if it were divided already, and the decoders of BART and its kin do not shift the labels.
    With ``kl`` its loss is that and the term for how far the model has moved from the base.
    """

    def __init__(self, *, kl: KLToBase | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs, compute_loss_func=loss_of_targets)
        self.remove_callback(PrinterCallback)
        self._kl = kl
        self._keeps_few_logits = self.args.n_gpu < 2 and kl is None and takes_positions(self.model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.args.n_gpu > 1:  # for which versions of transformers count differently
            num_items_in_batch = None
        batches = self.current_gradient_accumulation_steps if model.training else 1
        # The label of a position becomes the target that is predicted there.
        given = dict(inputs)
        if self._keeps_few_logits and model.training and inputs["labels"].dim() > 1:
            given = with_learned_logits(inputs)
        else:
            given["labels"] = labels_of_next(inputs["labels"])
        loss, outputs = super().compute_loss(model, given, True, num_items_in_batch)
        if num_items_in_batch is None:
            loss = loss / batches
        own = self.accelerator.unwrap_model(model)
        # The targets' loss is of all batches of a step; these terms are of their own.
        balance = balance_of_experts(own, outputs)
        if balance is not None:
            loss = loss + balance / batches
        if self._kl is not None and own.training:
            loss = loss + self._kl(own, inputs, outputs.logits) / batches
        return (loss, outputs) if return_outputs else loss


class RunTrainer(TargetTrainer):
    """Trainer of a prepared run; it stops at the step whose loss is NaN or infinite, before the optimizer sees it."""

    def __init__(self, run: RunFolder, prepared: PreparedRun, **kwargs: Any) -> None:
        self._run, self._order = run, prepared.order
        super().__init__(
            kl=prepared.kl,
            model=prepared.opened.model,
            args=prepared.arguments,
            train_dataset=[*prepared.rows, *(prepared.replay.rows if prepared.replay else [])],
            data_collator=PadRight(pad_token_id(prepared.opened.tokenizer)),
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._kl is not None and "loss" in logs:
            logs = logs | self._kl.logged()
        super().log(logs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            good = self._run.last_checkpoint()
            kept = "no checkpoint was kept before it"
            if good is not None:
                kept = f"the last good checkpoint is {str(good[0])!r}"
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; {kept}; "
                "lower lr or raise warmup_steps"
            )
        return loss


def takes_positions(model: Any) -> bool:
    """Return whether a causal model of transformers computes logits at chosen positions alone."""
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(own.forward).parameters


def with_learned_logits(inputs: dict[str, Any]) -> dict[str, Any]:
    """Ask for the logits of the positions that predict a learned token in some row of a batch, with those tokens.

    The loss and its gradient are those of all logits, which are the largest thing that a small model computes.
    """
    wanted = labels_of_next(inputs["labels"])  # (rows, width)
    positions = (wanted != IGNORED).any(dim=0).nonzero().flatten()
    if len(positions) == 0:
        return inputs | {"labels": wanted}
    return inputs | {"logits_to_keep": positions, "labels": wanted[:, positions]}


def loss_of_targets(outputs: Any, targets: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Return the sum of ``-log p(target)`` divided by the number of targets of a step, or their mean without it.

    Logits are (batch, classes) or (batch, positions, vocabulary), and targets (batch,) or (batch, positions).
    """
    logits = in_single(outputs.logits).flatten(0, -2)
    targets = targets.to(logits.device).flatten()
    if num_items_in_batch is None:
        return cross_entropy(logits, targets, ignore_index=IGNORED)
    return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / num_items_in_batch


def balance_of_experts(model: Any, outputs: Any) -> Tensor | None:
    """Return the loss by which a model's router spreads tokens over its experts; None if the model computes none."""
    balance: Tensor | None = getattr(outputs, "aux_loss", None)
    if not torch.is_tensor(balance):  # of a model without experts, and of one that is not asked for it
        return None
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    for holder in (own, own.config.get_text_config()):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            if hasattr(holder, name):
                return float(getattr(holder, name)) * balance
    return None


def autocast_as_trained(precision: str) -> torch.autocast:
    """Compute as the training does: in bf16 or fp16 autocast, or as the weights are."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype, enabled=dtype is not None)


def first_not_finite(model: nn.Module) -> str | None:
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return next((name for name, parameter in trained if not torch.isfinite(parameter).all()), None)


class StopAtAccuracy(TrainerCallback):  # type: ignore[misc]
    """Score the validation split every ``every`` steps, as far as it takes, and stop at ``target``, if there is one."""

    def __init__(self, target: float | None, every: int, prepared: PreparedRun) -> None:
        self.target, self.every, self.prepared = target, every, prepared
        self.right: list[bool] = []  # outcomes of the look that reached it

    @property
    def has_stopped(self) -> bool:
        return bool(self.right)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.target is None or state.global_step % self.every:
            return
        task = self.prepared.scored
        with autocast_as_trained(self.prepared.precision):
            opened = replace(self.prepared.opened, model=model)
            right = outcomes_until_decided(opened, task, task.validation, accuracy=self.target)
        known = [outcome for outcome in right if outcome is not None]
        accuracy = sum(known) / len(right)
        if len(known) < len(right):
            state.log_history.append({"step": state.global_step, "validation_accuracy_below": self.target})
            return
        state.log_history.append({"step": state.global_step, "validation_accuracy": accuracy})
        if accuracy >= self.target:
            self.right = known
            control.should_training_stop = True


class KeepRecord(TrainerCallback):  # type: ignore[misc]
    """Mark complete checkpoints, keep the log on disk, and count the seconds of training over all attempts."""

    def __init__(self, run: RunFolder, seconds_before: float) -> None:
        self.run = run
        self.seconds = seconds_before

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter() - self.seconds

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self._began

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.run.write_log(state.log_history)
        # Resumed from a step at which it stops, Trainer would take another one, also where max_steps is reached.
        if not control.should_training_stop and first_not_finite(model) is None:
            self.run.mark_complete(state.global_step, time.perf_counter() - self._began)


class ShowProgress(TrainerCallback):  # type: ignore[misc]
    """Text that the base writes, steps and the latest loss, by ``bar``; steps in lines where there is none."""

    def __init__(self, bar: Progress = silent) -> None:
        self.bar = bar
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is silent and state.global_step:
            print(f"resuming from step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            # Of the steps since the log before: it comes after a step's end, and stays until the next.
            self._loss = f"loss {float(logs['loss']):.3f} up to step {state.global_step}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar(f"training {self._loss}".rstrip(), state.global_step, state.max_steps)
        if self.bar is silent and state.global_step % max(1, state.max_steps // 10) == 0:
            said = f"step {state.global_step}/{state.max_steps} {self._loss}".rstrip()
            print(said, file=sys.stderr, flush=True)
