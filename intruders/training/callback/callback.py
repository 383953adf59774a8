"""The audit while training goes on, for any transformers Trainer (TRL's too): when do intruders appear?"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from ...audits.audit import audit_pairing
from ...audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ...audits.result.audit_result import Audit
from ...audits.result.summary import by_kind, update_norm
from ...audits.worth_decomposing import AuditsAhead
from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.formats.memory import has_adapters, has_frozen_base
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source, open_checkpoint, open_source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import SettingError
from .alerts import alert
from .first_process import decided_by_first
from .gathered import gathered, opened, require_gatherable
from .logging_hooks import log_totals
from .sharding import sharded_by, will_be_sharded_by
from .trace import append_to_trace, check_trace, set_aside
from .weights_before import (
    base_of_sharded,
    checkpoint_of_training,
    require_matrices,
    require_trained_matrix,
    weights_before,
)


class IntruderCallback(TrainerCallback):  # type: ignore[misc]
    """Audit the model in memory every ``every`` steps and at the end of training.

    Add one line to an existing script, when the Trainer is made or afterwards::

        trainer = Trainer(model, args, train_dataset=rows, callbacks=[IntruderCallback(every=100)])
        trainer.add_callback(IntruderCallback(trainer, every=100))

    The callback logs totals under ``intruders/...`` wherever the Trainer reports. It keeps every vector of every audit
    as Parquet in ``trace`` (``intruders.parquet`` in the Trainer's output folder if not given). What cannot be
    audited, logged or kept is refused before training begins: here with a trainer, otherwise when the Trainer is made
    or begins to train. If a training has several processes, the first one audits. Make the callback on every process:
    all of them hear from the first when to stop, and all of them take part in putting a sharded model together.

    Args:
      trainer: the Trainer, before it trains: its model's matrices now are the base, without its adapters, unless
        ``base`` is given. Where an adapter's start took a part of them (PiSSA, ...), that part counts as theirs.
        Without it the model is the one that the Trainer names to its callbacks.
      every: number of steps between audits.
      settings: settings of the audits.
      stop_above: end training when an audit finds more intruders than this.
      alert_above: warn when an audit finds more intruders than this, in Weights & Biases and trackio too.
      trace: the Parquet file, or False for none. A training that begins keeps the trace of an earlier one under
        another name; one that resumes adds to it.
      base: the model before fine-tuning, if the Trainer's model has changed since.

    Raises:
      SettingError: a setting is out of range, ``include`` matches nothing, the training changes no matrix that
        is to be audited, ``trace`` names a file of another kind, or the weights before training are gone.
      CheckpointError: ``base`` or the model's adapter cannot be read. PairingError: they do not belong together.
      ResultFileError: ``trace`` cannot be written.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        every: int = 100,
        settings: AuditSettings = AS_USUAL,
        stop_above: int | None = None,
        alert_above: int | None = None,
        trace: str | os.PathLike[str] | bool = True,
        base: Source | None = None,
    ) -> None:
        if not _is_whole(every) or every < 1:
            raise SettingError(
                f"every is {every!r}; expected a whole number of steps between audits, 1 or more"
            )
        for name, number in (("stop_above", stop_above), ("alert_above", alert_above)):
            if number is not None and (not _is_whole(number) or number < 0):
                raise SettingError(f"{name} is {number!r}; expected a whole number of intruders, 0 or more")
        self._trainer = trainer
        self._every = every
        self._settings = settings
        self._stop_above = stop_above
        self._alert_above = alert_above
        self._keeps_trace = trace is not False
        self.trace: Path | None = None if isinstance(trace, bool) else Path(trace)
        self._given_base = base
        self._take_cache()
        self._forget_model()
        self.last: Audit | None = None
        self.has_stopped = False
        if trainer is not None:
            self._get_ready(trainer.model, trainer.args, trainer.is_world_process_zero())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without a trainer, as it was before the callback saw a model."""
        fresh = IntruderCallback.__new__(IntruderCallback)
        fresh.__dict__.update(self.__dict__, _trainer=None)
        fresh._take_cache()
        fresh._forget_model()
        return fresh.__dict__

    def _take_cache(self) -> None:
        self._bases = AuditsAhead()  # the base is the same at every call
        self._compute = Compute(cache=self._bases)

    def _forget_model(self) -> None:
        self._is_ready = False
        # What audits compare with; None stands for the weights in memory, beneath an adapter.
        self._base: Source | None = None
        self._frozen_base: Checkpoint | None = (
            None  # the same, open, once it is known to be what the model acts on
        )
        self._sharded: str | None = None  # in which way, once training has begun
        self._audited_step = 0
        self._taken_from: str | None = (
            None  # the checkpoint of a training whose weights were taken as the base
        )

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self._is_ready and model is not None:
            self._get_ready(model, args, state.is_world_process_zero)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self._is_ready:
            self._get_ready(model, args, state.is_world_process_zero, is_resumed=state.global_step > 0)
        if self.trace is not None and state.is_world_process_zero and not state.global_step:
            set_aside(self.trace)
        if self._taken_from is not None:
            self._question_base(self._taken_from, is_resumed=state.global_step > 0)
        self._sharded = sharded_by(model)
        if self._sharded is None:
            return
        require_gatherable(self._sharded, self._trainer)
        if has_adapters(model):  # the base that was beneath it in memory is split since
            self._base = base_of_sharded(model, self._given_base)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        is_regular = state.global_step % self._every == 0
        # The last step is audited here and not in on_train_end, where trackers have closed their runs.
        if not is_regular and state.global_step != state.max_steps:
            return
        if self._finds_too_many(model, args, state, control) and is_regular:
            self.has_stopped = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step != self._audited_step:  # ended before its last step, by another callback
            self._finds_too_many(model, args, state, control)

    def _get_ready(self, model: nn.Module, args: Any, is_first: bool, is_resumed: bool = False) -> None:
        """Take the weights before training, and raise what the first audit would raise as far as is known."""
        if not is_first and any(parameter.is_meta for parameter in model.parameters()):
            self._is_ready = True  # FSDP is told to load on the first process alone
            return
        base = self._given_base
        way = sharded_by(model)
        if way is not None:
            base = base_of_sharded(model, base)
        else:
            require_trained_matrix(model)
            if will_be_sharded_by() is not None and has_adapters(model):
                base = base_of_sharded(model, base)
            elif base is None:
                base = weights_before(model, is_resumed)
                self._taken_from = None if base is None else checkpoint_of_training(model)
            require_matrices(base, model, self._settings)
        if self._keeps_trace and self.trace is None:
            self.trace = Path(args.output_dir) / "intruders.parquet"
        if is_first:  # the first process audits; the others need no copy of the weights
            self._base = base
            if self.trace is not None:
                check_trace(self.trace)
        self._is_ready = True

    def _question_base(self, checkpoint: str, is_resumed: bool) -> None:
        """Refuse a checkpoint as the base of the training that wrote it, and name it as the base of another one."""
        if is_resumed:
            raise SettingError(
                f"the model was loaded from '{checkpoint}', a checkpoint of the training that is resumed, and the "
                "audits need the weights before it; pass base= with the model before fine-tuning"
            )
        warnings.warn(
            f"the weights in '{checkpoint}', a checkpoint of an earlier training, count as the base; "
            "pass base= to measure from another model",
            stacklevel=2,
        )

    def _finds_too_many(self, model: nn.Module, args: Any, state: Any, control: Any) -> bool:
        """Audit, and return on every process whether the model has more intruders than ``stop_above``."""
        self._audited_step = state.global_step

        def decide(state_dict: dict[str, Tensor] | None = None) -> bool:
            tuned = model if state_dict is None else opened(model, state_dict)
            audit = self._audit(tuned, args, state, control)
            return self._stop_above is not None and audit.intruders > self._stop_above

        is_first = state.is_world_process_zero
        if self._sharded is not None:
            tensors = gathered(model, self._sharded, self._trainer, is_first)
            return decided_by_first(lambda: decide(tensors), state)
        if self._stop_above is not None:
            return decided_by_first(decide, state)
        return is_first and decide()

    def _audit(self, tuned: nn.Module | Opened, args: Any, state: Any, control: Any) -> Audit:
        started = time.perf_counter()
        pairing = pair_sides(*self._sides(tuned), self._settings)
        self._bases.expect(1 + max(0, state.max_steps - state.global_step) // self._every)
        audit = audit_pairing(pairing, self._settings, self._compute)
        self.last = audit = replace(audit, seconds=time.perf_counter() - started)
        log_totals(self._trainer, args, state, control, _totals(audit))
        if self.trace is not None:
            append_to_trace(self.trace, state.global_step, audit)
        if self._alert_above is not None and audit.intruders > self._alert_above:
            alert(audit.intruders, self._alert_above, state.global_step)
        return audit

    def _sides(self, tuned: nn.Module | Opened) -> tuple[Checkpoint, Opened]:
        """Return the base and the model as it is now.

        The check that weights beneath an adapter are those of ``base`` reads both. If training leaves them unchanged,
        it runs once. Weights that are split over processes are not read: they count as those of the base.
        """
        if not isinstance(tuned, nn.Module):
            assert self._base is not None
            self._frozen_base = self._frozen_base or open_checkpoint(self._base)
            return self._frozen_base, tuned
        if self._frozen_base is not None:
            return self._frozen_base, open_source(tuned)
        base, now = open_sides(self._base, tuned)
        acts_on_base = isinstance(now, Adapter) or (
            isinstance(now, ModelSum) and all(isinstance(part, Adapter) for part, _ in now.parts)
        )
        if has_adapters(tuned) and acts_on_base and has_frozen_base(tuned):
            self._frozen_base = base
        return base, now


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _totals(audit: Audit) -> dict[str, float]:
    """Return the numbers that are logged, each as the audit's own summary defines it."""
    kinds = {summary.kind: summary.intruders for summary in by_kind(audit.matrices)}
    return {
        "intruders/total": audit.intruders,
        "intruders/vectors": audit.vectors,
        "intruders/energy_share": audit.intruder_energy_share,
        "intruders/update_frobenius": update_norm(audit.matrices),
        "intruders/seconds": round(audit.seconds, 4),
        **{f"intruders/by_module/{kind}": count for kind, count in sorted(kinds.items())},
    }
