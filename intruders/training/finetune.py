"""One fine-tuning run from settings to a model on disk, by transformers' Trainer and PEFT."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.load_task import described_task, load_task
from ..data.task import Task
from ..errors import IntrudersError, NonFiniteError, SettingError, in_one_line
from ..models.answers import graded
from ..models.base_model import base_model_location, contents_of
from ..models.quiet import quiet_transformers
from ..system.callers_process import apart_from_caller
from ..system.commands import command_of
from ..system.files import stop_on_full_disk
from ..system.folders import require_ours, scratch_folder, working_folder
from ..system.progress import silent
from ..system.versions import machine, versions
from .callback.callback import IntruderCallback
from .callback.limits import Limits
from .callback.training_start import StartOfA
from .finetune_config import FinetuneConfig
from .methods import make_optimizer, plugins_for, save_model
from .prepared_run import PreparedRun, prepare_run, require_same_texts
from .run_folder import RunFolder
from .trainer import (
    KeepRecord,
    RunTrainer,
    ShowProgress,
    StopAtAccuracy,
    autocast_as_trained,
    first_not_finite,
)

_TRACE = "intruders.parquet"  # in the folder of a run


def finetune(config: FinetuneConfig, callbacks: Sequence[Any] = ()) -> RunFolder:
    """Fine-tune ``config.base`` on ``config.task`` by ``config.method``.

    An interrupted run resumes from its last complete checkpoint and ends as if it had not been interrupted. A
    finished run is left as it is, and refused if its model was removed. A model that is trained and cannot be scored
    stays in the folder.

    Args:
      config: base, task, method, folder and everything else about the run.
      callbacks: transformers TrainerCallbacks, such as :class:`intruders.IntruderCallback`.

    Returns:
      The folder of the run, with the model and the record.

    Raises:
      SettingError: a setting, the task or the data cannot be used, the run in the folder began with others, or it is
        finished and its model is not there.
      NonFiniteError: the loss, or a trained weight, is NaN or infinite.
      IntrudersError: the model cannot be used, or the disk is full.

    Examples:
      With a base in the folder ``base``:

      >>> few = {"rank": 2, "steps": 2, "max_train_samples": 8, "max_eval_samples": 2, "max_new_tokens": 4}
      >>> run = finetune(FinetuneConfig(base="base", task="word-problems", out="run", **few))
      >>> run.is_finished, run.record["steps"]
      (True, 2)
    """
    run = train_unless_finished(config, callbacks)
    run.require_model()
    return run


@apart_from_caller()
def train_unless_finished(config: FinetuneConfig, callbacks: Sequence[Any] = ()) -> RunFolder:
    """Do what :func:`finetune` does; a finished run, such as a stage of a sequence, needs its model no more."""
    run = RunFolder(Path(config.out))
    require_ours(run.path, ["run.json"], "a run")
    with working_folder(run.path):
        run.require_same_settings(config.recorded())
        location = base_model_location(config.base)
        task = load_task(config.task, config, config.data_seed)
        task = task.limited(config.max_train_samples, config.max_eval_samples)
        check_task(config, task)
        sources = {"base": location, "start_from": config.start_from, "budget_pilot": config.budget_pilot}
        models = contents_of({name: source for name, source in sources.items() if source is not None})
        run.require_same_inputs(task, models)
        if run.is_finished:
            require_same_texts(config, run)
            run.remove_what_resumes()  # where the process was killed while it did so
            return run
        with quiet_transformers(), stop_on_full_disk(run.path), scratch_folder(run.path) as scratch:
            _train(config, run, location, task, models, list(callbacks), scratch)
    return run


_NOT_OF_CLASSES = {
    "kl_to_base": "head starts at random: the base has no predictions to stay close to; use a task with prompts and "
    "completions, or leave it out",
    "loss_on": "model has no loss on text while it trains; measure it afterwards with 'intruders evaluate', or leave "
    "it out",
    "replay": "model has no loss on text; use a task with prompts and completions, or leave it out",
}


def check_task(config: FinetuneConfig, task: Task) -> None:
    """Raise SettingError for settings that this task cannot be trained by."""
    config.loading(task.kind)
    plugins_for(config)
    if config.match is not None and task.score == "none":
        raise SettingError(f"match is {config.match!r}, but task {task.name!r} has no right answers to count")
    for name, why in _NOT_OF_CLASSES.items() if task.kind == "classification" else ():
        if (given := getattr(config, name)) not in (None, 0):
            said = f"{given:g}" if isinstance(given, float) else repr(given)
            raise SettingError(f"{name} is {said}, but task {task.name!r} is classification, whose {why}")


def _train(
    config: FinetuneConfig,
    run: RunFolder,
    location: str,
    task: Task,
    models: dict[str, str],
    callbacks: list[Any],
    scratch: Path,
) -> None:
    asked = config
    if config.precision == "auto":
        # A run that began on another machine ends as if it had not been interrupted.
        config = replace(config, precision=run.begun.get("precision", "auto"))
    shown = next((shows.bar for shows in callbacks if isinstance(shows, ShowProgress)), silent)
    prepared = prepare_run(config, run, location, task, scratch, shown)
    model, tokenizer = prepared.opened.model, prepared.opened.tokenizer
    bounds = [callback for plugin in plugins_for(config) for callback in plugin.callbacks(model, config)]
    start_of_a = StartOfA.of(model)  # as the steps find it: the callback of oplora has projected it
    record = _record_of_start(asked, location, task, models, prepared)
    run.write_record(record)

    accuracy = StopAtAccuracy(config.target_accuracy, config.eval_steps, prepared)
    run.remove_incomplete_checkpoints()
    resumed = run.last_checkpoint()
    keeper = KeepRecord(run, seconds_before=resumed[1] if resumed else 0.0)
    optimizers = (make_optimizer(model, config), None)
    trainer = RunTrainer(
        run, prepared, callbacks=[*bounds, keeper, accuracy, *callbacks], optimizers=optimizers
    )
    auditor = None
    if config.audit_steps is not None:
        if resumed is None:  # of this very run, before its first checkpoint
            (run.path / _TRACE).unlink(missing_ok=True)
        auditor = IntruderCallback(
            trainer,
            every=config.audit_steps,
            stop_above=config.stop_above,
            trace=run.path / _TRACE,
            # PEFT does not know of a plugin's start, and what is beneath the adapter is not the base.
            base=location if config.starts_from_changed_base and config.kind_of_method.is_plugin else None,
            tokenizer=tokenizer,
            **vars(config.part(Limits)),
        )
        trainer.add_callback(auditor)
    trainer.train(resume_from_checkpoint=str(resumed[0]) if resumed else None)
    if ruined := first_not_finite(model):  # by its last step, after which no loss came
        raise NonFiniteError(
            f"{ruined} contains NaN or infinity after the last step, so the model is not saved; lower lr or raise "
            "warmup_steps"
        )
    run.write_model(lambda folder: save_model(model, tokenizer, folder, prepared.start))
    run.write_log(trainer.state.log_history)

    began = time.perf_counter()
    right, failure = _score(prepared, accuracy, auditor)
    run.write_record(
        record
        | {
            "status": "finished",
            "steps": trainer.state.global_step,
            **_seen_by(accuracy, auditor),
            "a_movement": start_of_a.movement(dict(model.named_parameters()))[0],
            "validation": {"accuracy": sum(right) / len(right) if right else None, "examples": len(right)},
            "seconds": {"training": keeper.seconds, "validation": time.perf_counter() - began},
        }
    )
    run.remove_what_resumes()
    if failure is not None:
        given = described_task(config.task, config)
        rows = {"task": given, "split": "validation", "max_examples": config.max_eval_samples}
        raise IntrudersError(
            f"the model is trained and is in {str(run.path)!r}, but it could not be scored "
            f"({in_one_line(failure)}); score it with: {shlex.join(command_of('evaluate', str(run.path), **rows))}"
        ) from failure


def _record_of_start(
    config: FinetuneConfig, location: str, task: Task, models: dict[str, str], prepared: PreparedRun
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "status": "running",
        "config": config.recorded(),
        "base_location": location,
        "task": {"name": task.name, "kind": task.kind, "score": task.score, "data": task.fingerprint()},
        "models": models,
        "versions": versions(),
        "machine": machine(),
        "precision": prepared.precision,
        "trainable_parameters": sum(p.numel() for p in prepared.opened.model.parameters() if p.requires_grad),
    }
    told = {"labels": task.labels, "source": task.source}
    record["task"] |= {name: value for name, value in told.items() if value}
    texts = {"replay": prepared.replay, "loss_on": prepared.measured}
    record |= {name: text.recorded() for name, text in texts.items() if text is not None}
    left_out = {
        "train": len(task.train) - len(prepared.rows),
        "validation": len(task.validation) - len(prepared.scored.validation),
    }
    if any(left_out.values()):
        record["task"]["too_long"] = left_out
    return record


def _score(
    prepared: PreparedRun, accuracy: StopAtAccuracy, auditor: IntruderCallback | None
) -> tuple[list[bool], Exception | None]:
    """Return for each validation row whether the saved model is right, and the error that prevented it."""
    is_last = auditor is None or auditor.put_back is None  # or the state of an earlier step is what is saved
    if accuracy.has_stopped and is_last:
        return accuracy.right, None
    task = prepared.scored
    if task.score == "none":
        return [], None
    try:
        with autocast_as_trained(prepared.precision):
            return graded(prepared.opened, task, task.validation).right or [], None
    except Exception as error:  # whatever it is, the training is over and must not be lost
        return [], error


def _seen_by(accuracy: StopAtAccuracy, auditor: IntruderCallback | None) -> dict[str, Any]:
    saved = None if auditor is None else auditor.put_back
    seen: dict[str, Any] = {"stopped_by": "steps", "intruders": None}
    if accuracy.has_stopped:
        # The state of an earlier step, which is saved in its place, did not have the accuracy.
        seen["stopped_by"] = "match" if saved is None else "limit"
    elif auditor is not None and (auditor.has_stopped or auditor.has_stopped_at_limit):
        seen["stopped_by"] = "intruders" if auditor.has_stopped else "limit"
    if auditor is None or auditor.last is None:
        return seen
    seen["intruders"] = auditor.last.intruders if saved is None else saved["intruders"]
    if not auditor.is_below_limit:
        seen["over_limit"] = True
    if saved is not None:
        seen["saved_step"] = saved["step"]
    if auditor.forgetting is not None:
        seen["forgetting"] = {
            "corpus": auditor.loss_on,
            "base_loss": auditor.base_loss,
            "rise": auditor.forgetting if saved is None else saved["forgetting"],
            "share_of_time": auditor.share_of_time,
        }
    return seen
