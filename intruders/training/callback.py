"""The audit while training goes on, for any transformers Trainer (TRL's too): when do intruders appear?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ..audits.audit import audit_pairing
from ..audits.audit_result import Audit
from ..audits.audit_settings import AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.adapters.formulas import widened
from ..checkpoints.adapters.peft_adapter import start_that_changed
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.memory import has_adapters, has_frozen_base, module_checkpoint, with_copies
from ..checkpoints.model_sum import ModelSum
from ..checkpoints.open import Opened, Source, open_checkpoint, open_source
from ..checkpoints.pairing.pair_sides import open_sides, pair_sides
from ..checkpoints.selection import Selection
from ..errors import IntrudersError, SettingError, one_line
from .sharding import refuse_sharded_model, refuse_sharded_training
from .trace import append_to_trace, check_trace


class IntruderCallback(TrainerCallback):  # type: ignore[misc]
    """Audits the model in memory every ``every`` steps and at the end of training.

    One line in a script that exists::

        trainer.add_callback(IntruderCallback(trainer, every=100))

    Totals go under ``intruders/...`` to whatever the Trainer reports to; every vector of every audit is kept
    as Parquet in ``trace`` (``intruders.parquet`` in the Trainer's output folder if not given). What cannot be
    audited, logged or kept is refused here, before training begins. In a training on several processes (DDP) the
    first one audits. Make the callback on every process, because all of them hear from the first when to stop.

    Args:
      trainer: the Trainer, before it trains: its model's matrices now are the base, without its adapters, unless
        ``base`` is given. Where an adapter's start took a part of them (PiSSA, ...), that part counts as theirs.
      every: steps between audits.
      settings: of the audits.
      stop_above: end training when an audit finds more intruders than this.
      trace: the Parquet file, or False for none.
      base: the model before fine-tuning, where the Trainer's model is not it any more.

    Raises:
      SettingError: a setting is out of range, ``include`` matches nothing, the training changes no matrix that
        is to be audited, ``trace`` names a file of another kind, or the model is sharded (FSDP, DeepSpeed ZeRO-3).
      CheckpointError: ``base`` or the model's adapter cannot be read. PairingError: they do not belong together.
      ResultFileError: ``trace`` cannot be written.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        every: int = 100,
        settings: AuditSettings = AS_USUAL,
        stop_above: int | None = None,
        trace: str | os.PathLike[str] | bool = True,
        base: Source | None = None,
    ) -> None:
        if every < 1:
            raise SettingError(f"every is {every}; expected 1 step or more between audits")
        if stop_above is not None and stop_above < 0:
            raise SettingError(f"stop_above is {stop_above}; expected 0 intruders or more")
        refuse_sharded_training(trainer)
        self._trainer = trainer
        self._every = every
        self._settings = settings
        self._compute = Compute(cache=MemoryCache())  # the base is the same at every call
        self._stop_above = stop_above
        default = Path(trainer.args.output_dir) / "intruders.parquet"
        self.trace: Path | None = (default if trace is True else Path(trace)) if trace is not False else None
        self._base: Source | None = _weights_now(trainer.model) if base is None else base
        _require_matrices(self._base, trainer.model, settings)
        if not trainer.is_world_process_zero():
            self._base = None  # the first process audits; the others need no copy of the weights
        elif self.trace is not None:
            check_trace(self.trace)
        self._frozen_base: Checkpoint | None = None  # what the adapter acts on, once that is known
        self.last: Audit | None = None
        self.has_stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        refuse_sharded_model(model)  # again: it may have been sharded since the callback was made

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self._every:
            return
        if self._stop_above is not None:
            if _decided_by_first(lambda: self._finds_too_many(model, state, control), state):
                self.has_stopped = True
                control.should_training_stop = True
        elif state.is_world_process_zero:
            self._audit(model, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self._every and state.is_world_process_zero:
            self._audit(model, state, control)

    def _finds_too_many(self, model: nn.Module, state: Any, control: Any) -> bool:
        found = self._audit(model, state, control)
        return self._stop_above is not None and found.intruders > self._stop_above

    def _audit(self, model: nn.Module, state: Any, control: Any) -> Audit:
        started = time.perf_counter()
        pairing = pair_sides(*self._sides(model), self._settings)
        found = audit_pairing(pairing, self._settings, self._compute)
        self.last = found = replace(found, seconds=time.perf_counter() - started)
        self._log(_totals(found), control)
        if self.trace is not None:
            append_to_trace(self.trace, state.global_step, found)
        return found

    def _sides(self, model: nn.Module) -> tuple[Checkpoint, Opened]:
        """The base and the model as it is now.

        Whether the weights beneath an adapter are those of ``base`` takes reading both. Where training leaves them as
        they are, once is enough.
        """
        if self._frozen_base is not None:
            return self._frozen_base, open_source(model)
        base, tuned = open_sides(self._base, model)
        acts_on_base = isinstance(tuned, Adapter) or (
            isinstance(tuned, ModelSum) and all(isinstance(part, Adapter) for part, _ in tuned.parts)
        )
        if has_adapters(model) and acts_on_base and has_frozen_base(model):
            self._frozen_base = base
        return base, tuned

    def _log(self, totals: dict[str, float], control: Any) -> None:
        """Report totals beside what the Trainer itself will report of this step."""
        to_come = control.should_log  # on_log clears it, and the Trainer would not log the step's loss
        # The class's own method: those of TRL's trainers put the metrics gathered since the last call into this
        # one and clear them, so that they would be missing beside the loss.
        Trainer.log(self._trainer, totals)
        control.should_log = to_come


def _require_matrices(base: Source | None, model: nn.Module, settings: AuditSettings) -> None:
    """Raise what an audit of ``model`` against ``base`` (its own, when None) would raise, by names and shapes alone."""
    is_trained = any(parameter.requires_grad and parameter.ndim >= 2 for parameter in model.parameters())
    if not has_adapters(model) and not is_trained:
        raise SettingError(
            f"the Trainer's {type(model).__name__} has no trainable matrix to audit; unfreeze one before you "
            "make the callback, or remove the callback"
        )
    if base is not None and has_adapters(model) and start_that_changed(model) is None:
        # Whether the weights beneath the adapter are the base's is left to the audits, which read them.
        sides = open_checkpoint(base), open_source(model)
    else:
        sides = open_sides(base, model)
    pairing = pair_sides(*sides, settings)
    if not pairing.pairs:
        raise SettingError(
            f"include {list(settings.include)} and exclude {list(settings.exclude)} leave none of the matrices that "
            "the training changes (embeddings are not audited); expected at least one; choose other patterns"
        )


def _decided_by_first(decide: Callable[[], bool], state: Any) -> bool:
    """What ``decide`` answers on the first process, on all of them; each raises if it raises there.

    A process that does not hear of it would wait for the others at the next step until the group's timeout.
    """
    from accelerate.utils import broadcast_object_list

    decided, failure = False, None
    if state.is_world_process_zero:
        try:
            decided = decide()
        except Exception as error:
            failure = error
    told = [decided, None if failure is None else one_line(failure)]
    decided, text = broadcast_object_list(told)
    if failure is not None:
        raise failure
    if text is not None:
        raise IntrudersError(f"the audit at step {state.global_step} failed on the first process: {text}")
    return bool(decided)


def _weights_now(model: nn.Module) -> Checkpoint | None:
    """A copy of the matrices that training will change; None where an adapter leaves the base in memory as it is."""
    if not has_adapters(model):
        own = module_checkpoint(model)
        trained = {
            name: parameter.detach().cpu().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.ndim >= 2 and name in own.tensors
        }
        return with_copies(own, trained)
    return None if start_that_changed(model) is None else _tuned_weights(model)


def _tuned_weights(model: nn.Module) -> Checkpoint:
    """What the adapters in the model make of its own weights, a copy, in the order in which these are stored."""
    own, tuned = open_sides(model, model)
    assert isinstance(tuned, ModelSum)
    adapters = replace(tuned, parts=[one for one in tuned.parts if isinstance(one[0], Adapter)])
    found: dict[str, Tensor] = {}
    for matrix in pair_sides(own, adapters, Selection(include_embeddings=True)).pairs:
        both = matrix.load()
        if both is None:
            found[matrix.name] = own.read(matrix.name).clone()
            continue
        whole = both.widened().dense().to(widened(both.base).dtype)
        stored = whole.mT if matrix.name in own.input_first else whole
        found[matrix.name] = stored.reshape(own.shape(matrix.name)).clone()
    return with_copies(own, found)


def _totals(found: Audit) -> dict[str, float]:
    """What is logged: all intruders, those of each kind of module, their energy, the size of the update."""
    kinds: Counter[str] = Counter()
    for matrix in found.matrices:
        kinds[matrix.name.removesuffix(".weight").rpartition(".")[2]] += matrix.intruders
    shares = [matrix.intruder_energy_share for matrix in found.matrices]
    return {
        "intruders/total": found.intruders,
        "intruders/vectors": found.vectors,
        "intruders/energy_share": sum(shares) / len(shares) if shares else 0.0,
        "intruders/update_frobenius": sum(m.update.frobenius**2 for m in found.matrices) ** 0.5,
        "intruders/seconds": round(found.seconds, 4),
        **{f"intruders/by_module/{kind}": count for kind, count in sorted(kinds.items())},
    }
