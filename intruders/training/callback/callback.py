"""The audit while training goes on, for any transformers Trainer (TRL's too): when do intruders appear?"""

import copy
import math
import os
import sys
import time
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn
from transformers import TrainerCallback

from ...audits.audit import audit_pairing
from ...audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ...audits.judge import AuditsAhead
from ...audits.kept_nats import KeptNats
from ...audits.result.audit_result import Audit
from ...checkpoints.formats.memory import COMPILED_WRAPPER, has_adapters
from ...checkpoints.opening.open import Opened, Source
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.stored.names import tensor_of
from ...errors import NonFiniteError, SettingError
from ...system.callers_process import random_state_kept
from ...system.files import user_path
from .limits import KeptState, Look, Named, Watch
from .logging_hooks import alert, handler_that_calls, log_totals, totals_of
from .sharding import decided_by_first, gathered, opened, require_gatherable, sharded_by, will_be_sharded_by
from .text_loss import TextLoss, measure_base_of_sharded, require_language_model
from .trace import append_to_trace, check_trace, set_aside
from .training_start import AuditedBase, TrainingStart, base_of_sharded, require_loadable


class IntruderCallback(TrainerCallback):  # type: ignore[misc]
    """Audit the model in memory every ``every`` steps and at the end of training.

    Add one line to an existing script, when the Trainer is made or afterwards:

        trainer = Trainer(model, args, train_dataset=rows, callbacks=[IntruderCallback(every=100)])
        trainer.add_callback(IntruderCallback(trainer, every=100))

    If the Trainer loads its best checkpoint after a training that ended early (``load_best_model_at_end``), the last
    step is not audited: its model is gone. Audit the best one with :func:`intruders.audit`.

    The callback logs totals under ``intruders/...`` wherever the Trainer reports. It keeps every vector of every audit
    as Parquet in ``trace`` (``intruders.parquet`` in the Trainer's output folder if not given). What cannot be
    audited, logged or kept is refused before training begins: here with a trainer, otherwise when the Trainer is made
    or begins to train. If a training has several processes, the first one audits. Make the callback on every process:
    all of them hear from the first when to stop, and all of them take part in putting a sharded model together.

    Args:
      trainer: the Trainer, before it trains: its model's matrices now are the base, without its adapters, unless
        ``base`` is given. Where an adapter's start took a part of them (PiSSA, ...), that part counts as theirs.
        Without it the model is the one that the Trainer names to its callbacks.
      settings: settings of the audits.
      trace: the Parquet file, or False or None for none. A training that begins keeps the trace of an earlier one under
        another name; one that resumes adds to it.
      base: the model before fine-tuning, if the Trainer's model has changed since.
      tokenizer: the model's; that of the Trainer if not given, else that of the folder which the model names.
      named: the fields of ``Watch`` (in ``intruders.training.callback.limits``): ``every``, ``stop_above``,
        ``alert_above``; ``loss_on``, ``loss_documents``, ``loss_tokens``; ``keep_forgetting_below``,
        ``keep_intruders_below``, ``go_on_over_limit``.

    A model that has become NaN or infinite is below no limit; without a limit or a kept state that ends the training
    with a NonFiniteError.

    Raises:
      SettingError: a setting is out of range, ``include`` matches nothing, the training changes no matrix that
        is to be audited, ``trace`` names a file of another kind, the weights before training are gone, or two
        callbacks of one Trainer have the same ``trace``, or a limit.
      CheckpointError: ``base`` or the model's adapter cannot be read. PairingError: they do not belong together.
      ResultFileError: ``trace`` cannot be written.
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        settings: AuditSettings = AS_USUAL,
        trace: str | os.PathLike[str] | bool | None = True,
        base: Source | None = None,
        tokenizer: Any = None,
        **named: Unpack[Named],
    ) -> None:
        given: dict[str, Any] = {**named}
        self._watch = Watch(**given)
        self._trainer, self._settings, self._given_base = trainer, settings, base
        self._has_trace = trace is not False and trace is not None
        self._given_trace = None if trace is None or isinstance(trace, bool) else user_path(trace)
        self._bases = AuditsAhead()  # the base is the same at every call
        self._text: TextLoss | None = None
        if (corpus := self._watch.loss_on) is not None:
            self._text = TextLoss(corpus, self._watch.loss_documents, self._watch.loss_tokens, tokenizer)
        self._forget_model()
        self._forget_looks()
        self.last: Audit | None = None
        if trainer is not None:
            processing = getattr(trainer, "processing_class", None)
            self._get_ready(trainer.model, trainer.args, trainer.is_world_process_zero(), processing)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without a trainer, as it was before the callback saw a model."""
        fresh = IntruderCallback.__new__(IntruderCallback)
        fresh.__dict__.update(self.__dict__, _trainer=None)
        fresh._bases = AuditsAhead()
        fresh._text = copy.copy(self._text)
        fresh._forget_model()
        fresh._forget_looks()
        return fresh.__dict__

    def _forget_model(self) -> None:
        self.trace: Path | None = self._given_trace
        self._made_ready_for: weakref.ref[nn.Module] | None = None  # once it is ready
        self._start = TrainingStart()
        self._sharded: str | None = None  # in which way, once training has begun
        self._nats: KeptNats | None = None  # what predicts them, once the base is known
        if self._text is not None:
            self._text.forget()

    def _forget_looks(self) -> None:
        self.has_stopped: bool = False
        self.has_stopped_at_limit: bool = False
        self.put_back: dict[str, Any] | None = None  # the record of the kept state that the model has now
        self._audited_step = 0
        self._look = Look()
        self._kept = KeptState()

    @property
    def loss_on(self) -> str | None:
        """The corpus on which the loss is measured."""
        return self._watch.loss_on

    @property
    def base_loss(self) -> float | None:
        """The base's loss on ``loss_on``, in nats per token, on the process that measured it."""
        return None if self._text is None else self._text.base

    @property
    def forgetting(self) -> float | None:
        """The rise of the loss on ``loss_on`` over the base at the last audit, in nats per token."""
        return None if self._text is None else self._text.rise

    @property
    def is_below_limit(self) -> bool:
        """Whether the model is below the limits, as the last audit saw it or as it was put back."""
        return self._look.is_below or self.put_back is not None

    @property
    def share_of_time(self) -> float:
        """The share of the time since training began that went into the loss on ``loss_on``."""
        return 0.0 if self._text is None else self._text.share_of_time

    def on_init_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        if self._made_ready_for is None and objects.get("model") is not None:
            self._get_ready(
                objects["model"], args, state.is_world_process_zero, objects.get("processing_class")
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        model: Any = objects.get("model")
        processing_class = objects.get("processing_class")
        is_first, is_resumed = state.is_world_process_zero, state.global_step > 0
        if not is_resumed:
            self._forget_looks()
        elif self._watch.has_limit:
            self._kept.resume(args, state, self._watch)
        # The model that was made ready, or one that wraps it as FSDP and PEFT do.
        known = None if self._made_ready_for is None else self._made_ready_for()
        is_known = model is None or any(module is known for module in model.modules())
        if not is_resumed and not is_known:
            self._forget_model()  # that of an earlier training, where model_init makes one for each
        if self._made_ready_for is None:
            self._get_ready(model, args, is_first, processing_class, is_resumed=is_resumed)
        elif self._name_trace(args) and is_first and self.trace is not None:  # another Trainer's
            check_trace(self.trace)
        self._require_own_files()
        if self.trace is not None and is_first and not is_resumed:
            set_aside(self.trace)
        self._start.begin(self.trace, model, is_resumed)
        self._sharded = sharded_by(model)
        if self._sharded is not None:
            require_gatherable(self._sharded, self._trainer, self._watch.has_limit)
            if has_adapters(model):  # the base that was beneath it in memory is split since
                self._start.base = AuditedBase(base_of_sharded(model, self._given_base))
            if self._text is not None:
                self._text.tokenizer_for(processing_class, model)
                measure_base_of_sharded(self._text, model, self._given_base, state)
        if self._text is not None:
            self._text.training_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        is_regular = state.global_step % self._watch.every == 0
        # The last step is audited here and not in on_train_end, where trackers have closed their runs.
        if not is_regular and state.global_step != state.max_steps:
            return
        look = self._look_at(objects["model"], args, state, control)
        if not is_regular:
            return
        self.has_stopped = self.has_stopped or look.has_too_many
        at_limit = self._watch.has_limit and not look.is_below and not self._watch.go_on_over_limit
        self.has_stopped_at_limit = self.has_stopped_at_limit or at_limit
        if look.has_too_many or at_limit:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._kept.saved(args, state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        if not (self._watch.has_limit and control.should_training_stop):
            return
        if state.global_step != self._audited_step:  # another callback ended the training
            self._look_at(objects["model"], args, state, control)
        if not self._look.is_below:
            self.put_back = self._kept.load_at_end(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        step, is_first = state.global_step, state.is_world_process_zero
        # A training that another callback ended before its last step is audited here, unless the Trainer has put its
        # best checkpoint in the place of the model of that step.
        has_best = getattr(args, "load_best_model_at_end", False) and state.best_model_checkpoint is not None
        is_earlier = has_best and getattr(state, "best_global_step", None) != step
        if step != self._audited_step and not is_earlier:
            self._look_at(objects["model"], args, state, control)
        if self._watch.has_limit and not self._look.is_below:
            args.load_best_model_at_end = False  # it was the user's until the end
            over = f"the state at step {step} is over the limit"
            if is_first and self.put_back is not None:
                self._say(args, f"{over}; that of step {self.put_back['step']} was put back")
            elif is_first:
                warnings.warn(
                    f"{over}; no audit saw a state below the limit, so that the model is left as it is; lower the "
                    "learning rate, or audit more often (every)",
                    stacklevel=2,
                )
            if not self._look.is_finite and self.put_back is None:
                raise NonFiniteError(
                    f"the model contains NaN or infinity at step {step}, and no earlier state of it was put back; "
                    "lower lr or raise warmup_steps"
                )
        if self._text is not None and self.forgetting is not None and is_first:
            self._say(
                args,
                f"forgetting on {self._text.name}: {self.forgetting:.3f} nats per token at step {step}; "
                f"measuring it took {100 * self.share_of_time:.1f} % of the time",
            )

    def _get_ready(
        self, model: nn.Module, args: Any, is_first: bool, processing: Any, is_resumed: bool = False
    ) -> None:
        """Take the weights before training, and raise what the first audit would raise as far as is known."""
        if self._watch.has_limit:
            require_loadable(model, args)
        self._name_trace(args)
        if not is_first and any(parameter.is_meta for parameter in model.parameters()):
            self._made_ready_for = weakref.ref(model)
            return  # FSDP is told to load on the first process alone
        if self._text is not None:
            require_language_model(model, self._text.name)
            self._text.tokenizer_for(processing, model)
        self._start = TrainingStart.of(
            model,
            self._given_base,
            self._settings,
            is_first=is_first,
            is_resumed=is_resumed,
            has_trace=self.trace is not None,
        )
        if is_first:
            if self.trace is not None:
                check_trace(self.trace)
            if self._text is not None and sharded_by(model) is None and will_be_sharded_by() is None:
                self._text.measure_base(model, self._given_base)
        self._made_ready_for = weakref.ref(model)

    def _name_trace(self, args: Any) -> bool:
        """Name the trace of a training, and return whether it is another than before."""
        if not self._has_trace:
            return False  # a Trainer of another library may have no folder
        before, self.trace = self.trace, self._given_trace or Path(args.output_dir) / "intruders.parquet"
        return before != self.trace

    def _require_own_files(self) -> None:
        """Raise SettingError if another callback of the same Trainer writes the same trace, or has a limit too."""
        handler = handler_that_calls()
        for other in [] if handler is None else handler.callbacks:
            if not isinstance(other, IntruderCallback) or other is self:
                continue
            theirs = None if other.trace is None else other.trace.resolve()
            if self.trace is not None and self.trace.resolve() == theirs:
                raise SettingError(
                    f"two callbacks of one Trainer write '{self.trace}'; expected one for each; pass trace= with "
                    "another path to one of them"
                )
            if self._watch.has_limit and other._watch.has_limit:
                raise SettingError(
                    "two callbacks of one Trainer have a limit; expected one, whose state the Trainer loads at the "
                    "end; pass both limits to one callback"
                )

    def _look_at(self, model: nn.Module, args: Any, state: Any, control: Any) -> Look:
        """Audit and measure the model, keep it if it is below the limits, and return on every process what was seen."""
        self._audited_step = state.global_step
        is_first = state.is_world_process_zero
        tensors = None
        if self._sharded is not None:
            tensors = gathered(model, self._sharded, self._trainer, is_first)
        if self._text is not None and self._sharded is not None:
            self._text.measure(model, is_sharded=True)

        def look() -> Look:
            try:
                if self._text is not None and self._sharded is None:
                    self._text.measure(model)
                with random_state_kept(on_all_devices=False):
                    tuned = model if tensors is None else opened(model, tensors)
                    audit = self._audit(tuned, tensors, args, state, control)
            except NonFiniteError:
                if not self._watch.has_limit:
                    raise
                if self._text is not None:
                    self._text.last = math.nan
                return Look(is_below=False, is_finite=False)  # the kept state takes the model's place
            has_too_many = self._watch.stop_above is not None and audit.intruders > self._watch.stop_above
            record: dict[str, Any] = {"step": state.global_step, "intruders": audit.intruders}
            if self._text is not None:
                record |= {"forgetting": self.forgetting, "loss_on": self._text.name}
            return Look(has_too_many, self._watch.is_below(audit.intruders, self.forgetting), record=record)

        if self._sharded is not None or self._watch.stop_above is not None or self._watch.has_limit:
            self._look = decided_by_first(look, state)
        else:
            self._look = look() if is_first else Look()
        if self._watch.has_limit and self._look.is_below and self._look.record is not None:
            self._kept.keep(self._look.record, state, control)
        return self._look

    def _audit(
        self,
        tuned: nn.Module | Opened,
        tensors: dict[str, Tensor] | None,
        args: Any,
        state: Any,
        control: Any,
    ) -> Audit:
        started = time.perf_counter()
        base, now = self._start.base.sides(tuned)
        self._nats = self._nats or KeptNats.of_user(base)
        self._bases.expected = 1 + max(0, state.max_steps - state.global_step) // self._watch.every
        pairing = pair_sides(base, now, self._settings)
        audit = audit_pairing(pairing, self._settings, Compute(cache=self._bases), kept=self._nats)
        forgetting = audit.forgetting
        if forgetting is not None and isinstance(tuned, nn.Module) and not has_adapters(tuned):
            # What full fine-tuning trains beside what a prediction counts: no copy of it tells the change.
            known = {tensor_of(name) for name in [*forgetting.by_matrix, *forgetting.left_out]}
            trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
            beside = [name for name in trained if name.replace(COMPILED_WRAPPER, "") not in known]
            forgetting = replace(forgetting, left_out=[*forgetting.left_out, *beside])
        seconds = time.perf_counter() - started
        self.last = audit = replace(audit, seconds=seconds, forgetting=forgetting)
        of_model = dict(tuned.named_parameters()) if isinstance(tuned, nn.Module) else tensors or {}
        movement, moved = self._start.factors.movement(of_model)
        log_totals(self._trainer, args, state, control, totals_of(audit, movement, self._text))
        if self.trace is not None:
            append_to_trace(self.trace, state.global_step, audit, moved)
        if self._watch.alert_above is not None and audit.intruders > self._watch.alert_above:
            alert(audit.intruders, self._watch.alert_above, state.global_step)
        return audit

    def _say(self, args: Any, text: str) -> None:
        if not getattr(args, "disable_tqdm", False):
            print(text, file=sys.stderr, flush=True)
