"""One fine-tuning run from settings to a model on disk, by transformers' Trainer and PEFT."""

from __future__ import annotations

import math
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.corpora import Corpus
from ..data.load_task import described_task, load_task
from ..data.task import Task
from ..errors import IntrudersError, NonFiniteError, SettingError, first_line, in_one_line
from ..models.answers import outcomes
from ..models.base_model import base_model_location
from ..models.encoding import (
    PadRight,
    context_length,
    encode_classification,
    encode_completions,
    fitting,
    pad_token_id,
)
from ..models.loading import load_model, load_tokenizer
from ..models.quiet import quiet_transformers
from ..models.task_fit import refuse_masked
from ..system.callers_process import apart_from_caller
from ..system.files import stop_on_full_disk
from ..system.folders import removed_if_unused
from ..system.versions import machine, versions
from .attention_of_short_rows import attend_by_products_if_short
from .budget_clamp import BudgetClamp
from .callback.a_movement import StartOfA
from .callback.callback import IntruderCallback
from .callback.text_loss import TextLoss
from .config_checks import check_steps
from .finetune_config import FinetuneConfig
from .kl_to_base import KLToBase
from .methods import go_on_from, make_optimizer, prepare, prepared_for_qlora, save_model, save_start
from .oplora import ProjectedUpdates
from .replay import ReplaySampler, read_replay
from .run_folder import RunFolder
from .run_inputs import models_of, require_same, require_same_text
from .trainer import KeepRecord, RunTrainer, StopAtAccuracy, autocast_as_trained


@apart_from_caller()
def finetune(config: FinetuneConfig, callbacks: Sequence[Any] = ()) -> RunFolder:
    """Fine-tune ``config.base`` on ``config.task`` by ``config.method``.

    An interrupted run resumes from its last complete checkpoint and ends as if it had not been interrupted. A
    finished run is left as it is. A model that is trained and cannot be scored stays in the folder.

    Args:
      config: base, task, method, folder and everything else about the run.
      callbacks: transformers TrainerCallbacks, such as :class:`intruders.IntruderCallback`.

    Returns:
      The folder of the run, with the model and the record.

    Raises:
      SettingError: a setting, the task or the data cannot be used, or the run in the folder began with others.
      NonFiniteError: the loss, or a trained weight, is NaN or infinite.
      IntrudersError: the model cannot be used, or the disk is full.

    Example:
      With a base in the folder ``base``:

      >>> few = {"rank": 2, "steps": 2, "max_train_samples": 8, "max_eval_samples": 2, "max_new_tokens": 4}
      >>> run = finetune(FinetuneConfig(base="base", task="word-problems", out="run", **few))
      >>> run.is_finished, run.record["steps"]
      (True, 2)
    """
    run = RunFolder(Path(config.out))
    with removed_if_unused(run.path):
        run.open_for(config.recorded())
        location = base_model_location(config.base)
        task = load_task(config.task, config, config.data_seed)
        task = task.limited(config.max_train_samples, config.max_eval_samples)
        check_task(config, task)
        models = models_of(config, location)
    if _is_finished(run, task, models):
        return run
    with ExitStack() as contexts:
        contexts.enter_context(run.locked())
        # Another process may have begun, or finished, since.
        run.open_for(config.recorded())
        if _is_finished(run, task, models):
            return run
        contexts.enter_context(quiet_transformers())
        contexts.enter_context(stop_on_full_disk(run.path))
        scratch = Path(contexts.enter_context(tempfile.TemporaryDirectory(prefix="intruders-")))
        _train(config, run, _Given(location, task, models), list(callbacks), scratch)
    return run


def check_task(config: FinetuneConfig, task: Task) -> None:
    """Raise SettingError for settings that this task cannot be trained by."""
    config.loading(task.kind)
    if config.match is not None and task.score == "none":
        raise SettingError(f"match is {config.match!r}, but task {task.name!r} has no right answers to count")
    if config.kl_to_base and task.kind == "classification":
        raise SettingError(
            f"kl_to_base is {config.kl_to_base:g}, but task {task.name!r} is classification, whose head starts at "
            "random: the base has no predictions to stay close to; use a task with prompts and completions, or leave "
            "it out"
        )
    if config.loss_on is not None and task.kind == "classification":
        raise SettingError(
            f"loss_on is {config.loss_on!r}, but task {task.name!r} is classification, whose model has no loss on "
            "text while it trains; measure it afterwards with 'intruders evaluate', or leave it out"
        )
    if config.replay is not None and task.kind == "classification":
        raise SettingError(
            f"replay is {config.replay!r}, but task {task.name!r} is classification, whose model has no loss on text; "
            "use a task with prompts and completions, or leave it out"
        )


def encoded_rows(
    config: FinetuneConfig, tokenizer: Any, task: Task, context: int
) -> tuple[list[dict[str, Any]], Task]:
    """Return the encoded rows of training, and the task with the rows that are scored.

    Raises:
      SettingError: a row does not fit in ``context`` tokens, unless such rows are dropped; or none fits.
    """
    if task.kind == "classification":
        return encode_classification(tokenizer, task.train, task.labels, context), task
    where = f"train split of task {task.name!r}"
    rows = encode_completions(tokenizer, task.train, context, drop_too_long=config.drop_too_long, where=where)
    if task.score == "none":
        return rows, task  # no row of the other splits is read
    where = f"validation split of task {task.name!r}"
    if not config.drop_too_long:
        encode_completions(tokenizer, task.validation, context, where=where)
        return rows, task
    return rows, replace(task, validation=fitting(tokenizer, task.validation, context, where))


@dataclass(frozen=True)
class _Given:
    """The location, task and models that the settings name."""

    location: str
    task: Task
    models: dict[str, str]  # digests


def _is_finished(run: RunFolder, task: Task, models: dict[str, str]) -> bool:
    """Return whether nothing is left to do. SettingError if the folder's run used other data or models."""
    if not (run.path / "run.json").is_file():
        return False
    require_same(run.record, run.path, task, models)
    return run.is_finished


def _train(
    config: FinetuneConfig, run: RunFolder, given: _Given, callbacks: list[Any], scratch: Path
) -> None:
    from transformers import set_seed

    task, location = given.task, given.location
    arguments = training_arguments(config, run.checkpoints)
    refuse_masked(config.base, location, task)
    tokenizer = load_tokenizer(location)
    set_seed(config.seed)
    labels = task.labels if task.kind == "classification" else None
    base = load_model(location, task.kind, labels, config.loading(task.kind))
    context = context_length(base.config, config.max_length)
    rows, scored = encoded_rows(config, tokenizer, task, context)
    longest = max(len(row["input_ids"]) for row in rows)
    attend_by_products_if_short(base, longest, _precision(config))
    measured = _measured_text(config)
    if measured is not None:
        require_same_text(run, "loss_on", "measured its loss on", measured)
    texts = read_replay(
        config,
        tokenizer,
        longest,
        arguments.train_batch_size,
        held_out=frozenset() if measured is None else frozenset(measured.documents),
    )
    order = None
    if texts is not None:
        require_same_text(run, "replay", "replayed", texts.corpus)
        batch = arguments.train_batch_size
        order = ReplaySampler(len(rows), len(texts.rows), batch, texts.per_batch, config.seed)
    check_steps(config, _steps(arguments, len(rows if order is None else order)))
    left_out = {
        "train": len(task.train) - len(rows),
        "validation": len(task.validation) - len(scored.validation),
    }
    if config.load_in is not None:
        base = prepared_for_qlora(base, config)
    kl = KLToBase.of(config, base)
    model = prepare(base, config, task.kind)
    if config.start_from is not None:
        go_on_from(model, config.start_from, config.base)
    start = save_start(model, config, scratch / "start")
    start_of_a = StartOfA.of(model)

    record: dict[str, Any] = {
        "status": "running",
        "config": config.recorded(),
        "base_location": location,
        "task": {"name": task.name, "kind": task.kind, "score": task.score, "data": task.fingerprint()},
        "models": given.models,
        "versions": versions(),
        "machine": machine(),
        "precision": _precision(config),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    if task.kind == "classification":
        record["task"]["labels"] = task.labels
    if task.source is not None:
        record["task"]["source"] = task.source
    if texts is not None:
        record["replay"] = texts.recorded()
    if measured is not None:
        record["loss_on"] = {
            "corpus": measured.name,
            "documents": len(measured.documents),
            "digest": measured.digest,
        }
    if any(left_out.values()):
        record["task"]["too_long"] = left_out
    run.write_record(record)

    accuracy = None
    if config.target_accuracy is not None:
        accuracy = StopAtAccuracy(
            config.target_accuracy, config.eval_steps, scored, tokenizer, context, _precision(config)
        )
        callbacks = [accuracy, *callbacks]
    resumed = run.last_checkpoint()
    keeper = KeepRecord(run, seconds_before=resumed[1] if resumed else 0.0)
    trainer = RunTrainer(
        run=run,
        kl=kl,
        order=order,
        model=model,
        args=arguments,
        train_dataset=rows if texts is None else [*rows, *texts.rows],
        data_collator=PadRight(pad_token_id(tokenizer)),
        callbacks=[*_kept_in_bounds(model, config), keeper, *callbacks],
        optimizers=(make_optimizer(model, config), None),
    )
    _keep_terminal_quiet(trainer)
    auditor = None
    if config.audit_steps is not None:
        if resumed is None:  # of this very run, before its first checkpoint
            (run.path / "intruders.parquet").unlink(missing_ok=True)
            shutil.rmtree(run.kept, ignore_errors=True)
        auditor = IntruderCallback(
            trainer,
            every=config.audit_steps,
            stop_above=config.stop_above,
            trace=run.path / "intruders.parquet",
            # PEFT does not know of this start, and what is beneath the adapter is not the base.
            base=location if config.method == "milora" else None,
            loss_on=config.loss_on,
            loss_documents=config.loss_documents,
            loss_tokens=config.loss_tokens,
            tokenizer=tokenizer,
            keep_forgetting_below=config.keep_forgetting_below,
            keep_intruders_below=config.keep_intruders_below,
            go_on_over_limit=config.go_on_over_limit,
            kept=run.kept,
        )
        trainer.add_callback(auditor)
    trainer.train(resume_from_checkpoint=str(resumed[0]) if resumed else None)
    _require_finite(model)
    run.write_model(lambda folder: _save(model, tokenizer, folder, start))
    run.write_log(trainer.state.log_history)

    began = time.perf_counter()
    right, failure = [], None
    is_last = auditor is None or auditor.put_back is None  # or the state of an earlier step is what is saved
    if accuracy is not None and accuracy.has_stopped and is_last:
        right = accuracy.right
    elif task.score != "none":
        try:
            with autocast_as_trained(_precision(config)):
                right = outcomes(model, tokenizer, task, scored.validation, context=context)
        except Exception as error:  # whatever it is, the training is over and must not be lost
            failure = error
    run.write_record(
        record
        | {
            "status": "finished",
            "steps": trainer.state.global_step,
            "stopped_by": _reason(accuracy, auditor),
            **_seen_by(auditor),
            "a_movement": start_of_a.movement(dict(model.named_parameters())),
            "validation": {"accuracy": sum(right) / len(right) if right else None, "examples": len(right)},
            "seconds": {"training": keeper.seconds, "validation": time.perf_counter() - began},
        }
    )
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    shutil.rmtree(run.kept, ignore_errors=True)  # it is the model of the run
    if failure is not None:
        raise IntrudersError(
            f"the model is trained and is in {str(run.path)!r}, but it could not be scored "
            f"({in_one_line(failure)}); score it with: {_scoring(config, run)}"
        ) from failure


def _require_finite(model: nn.Module) -> None:
    """Raise NonFiniteError for a model that its last step has ruined: no loss came after it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise NonFiniteError(
                f"{name} contains NaN or infinity after the last step, so the model is not saved; lower lr or raise "
                "warmup_steps"
            )


def _scoring(config: FinetuneConfig, run: RunFolder) -> str:
    """Return the command that scores the rows which the run itself would have scored."""
    words = ["intruders", "evaluate", str(run.path), "--task", described_task(config.task, config)]
    words += ["--split", "validation"]
    if config.max_eval_samples is not None:
        words += ["--max-examples", str(config.max_eval_samples)]
    return shlex.join(words)


def _steps(arguments: Any, rows: int) -> int:
    """Return how many optimizer steps Trainer will take."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    rows_a_batch: int = arguments.train_batch_size * arguments.world_size
    batches = math.ceil(rows / rows_a_batch)
    accumulated: int = arguments.gradient_accumulation_steps
    each = max(1, math.ceil(batches / accumulated))
    return math.ceil(each * float(arguments.num_train_epochs))


def _kept_in_bounds(model: nn.Module, config: FinetuneConfig) -> list[Any]:
    """Return callbacks that change the adapter after the optimizer's steps, before it is measured."""
    callbacks: list[Any] = []
    if config.method == "oplora":
        callbacks.append(ProjectedUpdates(model, config.oplora_k))
    if config.budget is not None and config.budget_pilot is None and config.method != "full":
        looks = (
            config.audit_steps,
            config.eval_steps if config.match is not None else None,
            config.save_steps,
        )
        callbacks.append(BudgetClamp(model, config.budget, [config.budget_steps, *(n for n in looks if n)]))
    return callbacks


def _reason(accuracy: StopAtAccuracy | None, auditor: IntruderCallback | None) -> str:
    if accuracy is not None and accuracy.has_stopped:
        # The state of an earlier step, which is saved in its place, did not have the accuracy.
        return "match" if auditor is None or auditor.put_back is None else "limit"
    if auditor is not None and auditor.has_stopped:
        return "intruders"
    return "limit" if auditor is not None and auditor.has_stopped_at_limit else "steps"


def _seen_by(auditor: IntruderCallback | None) -> dict[str, Any]:
    """Return what the audits know of the model that is saved, and of its loss on text."""
    if auditor is None or auditor.last is None:
        return {"intruders": None}
    saved = auditor.put_back
    seen: dict[str, Any] = {"intruders": auditor.last.intruders if saved is None else saved["intruders"]}
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


def _measured_text(config: FinetuneConfig) -> Corpus | None:
    """Return the documents on which the loss is measured, which are not trained on."""
    if config.loss_on is None:
        return None
    text = TextLoss(config.loss_on, config.loss_documents, config.loss_tokens)
    return Corpus(config.loss_on, text.documents)


def training_arguments(config: FinetuneConfig, folder: Path, **over: Any) -> Any:
    """Return transformers' TrainingArguments of a run whose checkpoints go to ``folder``; ``over`` replaces some.

    Raises:
      SettingError: transformers refuses the settings.
    """
    from transformers import TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    precision = _precision(config)
    settings: dict[str, Any] = dict(
        output_dir=str(folder),
        learning_rate=config.lr,
        max_steps=config.steps if config.steps is not None else -1,
        num_train_epochs=config.epochs if config.epochs is not None else 1.0,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        **({"gradient_checkpointing": True} if config.gradient_checkpointing else {}),
        seed=config.seed,
        logging_steps=config.logging_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    try:
        get_reporting_integration_callbacks(settings["report_to"])
        return TrainingArguments(**(settings | over))
    except (ValueError, ImportError) as error:
        raise SettingError(f"transformers refuses these settings: {first_line(error)}") from error


def _precision(config: FinetuneConfig) -> str:
    """Resolve ``auto``: bf16 autocast if the processor has instructions for it, else fp32."""
    if config.precision != "auto":
        return config.precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def _keep_terminal_quiet(trainer: Any) -> None:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _save(model: nn.Module, tokenizer: Any, folder: Path, start: Path | None) -> None:
    save_model(model, folder, start)
    tokenizer.save_pretrained(folder)
    # PEFT's model card is a form of empty headings; the record of the run says more.
    (folder / "README.md").unlink(missing_ok=True)
