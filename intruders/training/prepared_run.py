"""What a run trains from: its rows, and the model prepared by its method, with the attention that is quickest."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.corpora import Corpus, is_here, load_corpora
from ..data.task import Task
from ..models.encoding import context_length, encode_classification, encode_completions, fitting
from ..models.loading import attend_by_products_if_short, load_model, load_tokenizer, refuse_unknown_tokens
from ..models.task_fit import refuse_masked
from ..models.tuned_model import OpenedModel
from ..system.progress import Progress
from ..system.store import Kept
from .arguments import resolved_precision, steps_of_warmup, training_arguments
from .finetune_config import FinetuneConfig
from .kl_to_base import KLToBase
from .methods import go_on_from, prepare
from .replay import Replay, ReplaySampler, read_replay, replayed_text
from .run_folder import RunFolder


@dataclass(frozen=True)
class PreparedRun:
    """Data and model of a run, just before its first step."""

    arguments: Any  # transformers' TrainingArguments
    precision: str  # "fp32", "bf16" or "fp16"
    opened: OpenedModel  # the model that is trained, with its tokenizer and the tokens that it reads at once
    rows: list[dict[str, Any]]  # encoded rows of the task
    scored: Task  # the task with the validation rows that are scored
    measured: Corpus | None  # text that the loss is measured on while it trains
    replay: Replay | None  # text that is trained on beside the task
    order: ReplaySampler | None  # of the rows and the text; None without replay
    kl: KLToBase | None
    start: Path | None  # the untrained adapter, of a method that changes the base


def prepare_run(
    config: FinetuneConfig, run: RunFolder, location: str, task: Task, scratch: Path, progress: Progress
) -> PreparedRun:
    """Encode the rows, load the base at ``location`` and prepare it by the method; its start is kept in ``scratch``."""
    from transformers import set_seed

    arguments = training_arguments(config, run.checkpoints)
    precision = resolved_precision(config)
    refuse_masked(config.base, location, task)
    tokenizer = load_tokenizer(location)
    set_seed(config.seed)
    base = load_model(location, task.kind, task.labels, config.loading(task.kind))
    refuse_unknown_tokens(base, tokenizer, location)
    context = context_length(base.config, config.max_length)
    rows, scored = encoded_rows(config, tokenizer, task, context)
    longest = max(len(row["input_ids"]) for row in rows)
    attend_by_products_if_short(base, longest, in_bf16=precision == "bf16")
    measured = _measured_text(config)
    batch = arguments.train_batch_size
    if config.replay is not None and config.replayed_corpus is None and config.load_in is None:
        base.to(arguments.device)  # where Trainer would put it: the base writes the text
    opened = OpenedModel(base, tokenizer, context)
    replay = read_replay(config, opened, longest, batch, Kept(run.checkpoints), measured, progress)
    run.require_same_texts(measured, None if replay is None else replay.corpus)
    order = None
    if replay is not None:
        order = ReplaySampler(len(rows), len(replay.rows), batch, replay.per_batch, config.seed)
    steps = int(arguments.max_steps)
    if steps <= 0:  # as Trainer counts those of epochs
        batches = math.ceil(len(rows if order is None else order) / (batch * arguments.world_size))
        each = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
        steps = math.ceil(each * float(arguments.num_train_epochs))
    config.check_steps(steps)
    arguments.warmup_steps = steps_of_warmup(config, steps)
    if config.load_in is not None:  # what stays whole is in float32
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=config.gradient_checkpointing)
    kl = KLToBase(config, base) if config.kl_to_base else None
    model: Any = prepare(base, config, task.kind)
    if config.start_from is not None:
        go_on_from(model, config.start_from, config.base)
    start = None
    if config.starts_from_changed_base:
        start = scratch / "start"
        model.save_pretrained(start)
    opened = OpenedModel(model, tokenizer, context)
    return PreparedRun(arguments, precision, opened, rows, scored, measured, replay, order, kl, start)


def require_same_texts(config: FinetuneConfig, run: RunFolder) -> None:
    """Compare the texts of a run with those of the finished run in its folder, where all of them are still here."""
    replayed = config.replayed_corpus
    names = [name for name in (config.loss_on, replayed) if name is not None]
    # The text of pydoc is that of the Python that runs: no one can restore it.
    if all(name == "pydoc" for name in names) or not all(map(is_here, names)):
        return
    measured = _measured_text(config)
    run.require_same_texts(measured, None if replayed is None else replayed_text(config, measured))


def encoded_rows(
    config: FinetuneConfig, tokenizer: Any, task: Task, context: int
) -> tuple[list[dict[str, Any]], Task]:
    """Return the encoded rows of training, and the task with the rows that are scored; SettingError if none fits."""
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


def _measured_text(config: FinetuneConfig) -> Corpus | None:
    if config.loss_on is None:
        return None
    corpora = load_corpora(config.loss_on, max_documents=config.loss_documents)
    return Corpus(config.loss_on, [text for corpus in corpora for text in corpus.documents])
