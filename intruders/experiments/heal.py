"""Recover what a fine-tuning forgot and keep what it learned: by its weights, or by one dose for every matrix."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.pairing.open_sides import sides_on_disk
from ..checkpoints.pairing.pairing import PairedMatrix, SkipKind
from ..checkpoints.stored.names import tensor_of
from ..checkpoints.writing.lora_adapter import Rank
from ..data.columns import Columns
from ..data.corpora import SELF, digests_of
from ..data.load_task import described_task
from ..data.task import names_given
from ..errors import SettingError
from ..linalg.low_rank import LowRank
from ..mitigation.beyond_doses import require_same_vocabulary
from ..mitigation.mitigate import apply_remedy
from ..mitigation.mitigation_result import Mitigation
from ..mitigation.remedies.doses import Doses, LearnedUpdates
from ..mitigation.targets.choose_target import choose_target, chosen_form
from ..models.base_model import digest_of_model
from ..models.loading_settings import AS_STORED, Loading
from ..system.callers_process import apart_from_caller
from ..system.files import user_path
from ..system.progress import Progress, silent
from ..system.store import Kept
from .data_shares import load_tasks, load_texts, read_prompts
from .dosed_model import TunedState
from .experiment_settings import AUTO, DOSES, HEALING, WEIGHTS, HealSettings
from .healing import RECORD, Healing
from .learn import learn
from .open_dosed import open_to_heal
from .question import Question, digest_of_intruders
from .report_healing import reported_healing
from .work_folder import WorkFolder, finished_healing


@apart_from_caller()
def heal(
    base: str | os.PathLike[str] | None,
    tuned: str | os.PathLike[str] | None = None,
    *,
    task: str | Sequence[str] = (),
    loss_on: str | Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    settings: HealSettings = HEALING,
    columns: Columns | None = None,
    prompts: str | os.PathLike[str] | None = None,
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    form: str = "auto",
    force: bool = False,
    data_seed: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STORED,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
    told: Callable[[str], None] = silent,
) -> Healing:
    """Recover what a fine-tuning forgot and keep what it learned.

    ``W_m = W0_m + a_m D_m`` for every changed matrix m, with a dose a_m in [-0.5, 1.5]. With ``settings.learn``
    "weights" D_m is learned too, in its form: factors of the same rank, or all entries. What is learned
    minimizes ``KL(base || model)`` on text and ``KL(tuned || model)`` on examples of the task by Adam: weights from the
    tuned model, doses from the smallest interpolation that keeps the task. It is not learned from the labels. The kept
    state forgets least on the documents that choose. On validation examples its task loss is at most ``settings.allow``
    above the tuned model's, of learned weights to within a standard error of the difference, and it reproduces as many
    of their targets, to one in a hundred. Everything is reported on other documents and examples.

    Args:
      base: folder, Hub id or demo model of the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter. An adapter that names its base may be passed alone.
      task: the task to keep, such as "word-problems", "sst2" or a data file; further tasks are only reported.
      loss_on: text such as the base was trained on; it is learned on the first, others are only reported. By default
        "self", text that the base writes itself.
      out: folder for the healed model and its record ``heal.json``. None learns and measures, and writes nothing.
      settings: what is learned, and on how much data.
      columns: the columns of a data file and their meaning.
      prompts: file of prompts, instead of a task; the tuned model's own greedy answers are kept.
      audit: settings of the audit, an earlier audit of these two models, or the path of a saved one.
      form: "adapter", "checkpoint" (merged), or "auto" for the form of the input.
      force: replace ``out`` if it is a model or adapter.
      data_seed: seed of the task's rows, as in fine-tuning; by default that of the run.
      seed: seed of halves, samples, the order of learning and the bootstrap.
      loading: how the models are loaded. What is learned is in single precision whatever the type.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).
      told: called with lines that a person should know before learning starts.

    Returns:
      What was learned, and the measures of the base, tuned, healed, interpolated and control models.

    Raises:
      SettingError: the task or the text is missing, a setting is out of range, or ``out`` belongs to another healing.
      NonFiniteError: a loss or a weight is NaN or infinite.
      IntrudersError: as the audit, the models and the data raise it.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``; a real healing takes the defaults:

      >>> few = HealSettings(steps=1, max_documents=4, max_tokens=32, max_examples=2, allow=1.0)
      >>> healing = heal("base", "tuned", task="word-problems", loss_on="pydoc", settings=few, out="healed")
      >>> sorted(healing.doses)[0], [point.name for point in healing.points][:3]
      ('model.layers.0.mlp.down_proj.weight', ['base', 'tuned', 'healed'])
    """
    started = time.perf_counter()
    given = Audit.load(audit) if isinstance(audit, str | os.PathLike) else audit
    question = Question.about(
        base, tuned, data_seed, seed, audit=given, loading=loading, compute=compute, progress=progress
    )
    names, columns = names_given(task), columns or Columns()
    prompt_file = None if prompts is None else os.fspath(prompts)
    tasks = load_tasks(question, names, columns, prompt_file)
    asked = None if prompt_file is None else read_prompts(prompt_file)
    corpora = load_texts(names_given(loss_on) or [SELF], settings, seed)
    written_form = _checked_form(form, question)
    if settings.learn == AUTO:
        has_weights = not question.is_adapter or all(pair.rank is not None for pair in question.pairs)
        settings = replace(settings, learn=WEIGHTS if has_weights and settings.per == "matrix" else DOSES)
    key = {
        **question.key(),
        "settings": settings.recorded(),
        "seed": seed,
        "text": digests_of(corpora),
        "tasks": {name: task.fingerprint() for name, task in tasks.items()},
        "answers": {name: [task.score, task.max_new_tokens] for name, task in tasks.items()},
        "order": [*corpora, *tasks],  # doses are learned on the first text and the first task
        # Which vectors are intruders: by the settings that tell it, or as a given audit says.
        "audit": given.recorded()
        if isinstance(given, AuditSettings)
        else {**AuditSettings.of(given).recorded(), "intruders": digest_of_intruders(given)},
        "prompts": asked,
        "form": written_form,
    }
    folder = None if out is None else user_path(out)

    def finished_before() -> Healing | None:
        finished = None if folder is None or force else finished_healing(folder, key)
        if finished is not None:
            told(f"'{out}' is healed already, by the same settings; this is its record")
        return finished

    if (finished := finished_before()) is not None:
        return finished
    adapter = question.both[1]
    keeps_rank = (
        (settings.learn == WEIGHTS or settings.per == "direction")
        and isinstance(adapter, Adapter)
        and (written_form, adapter.peft_type) == ("adapter", "LORA")
        and adapter.family != "kohya"
    )
    rank: Rank = "keep" if keeps_rank else None
    target = None
    if folder is not None:  # what could not be written is refused before anything is learned
        sources = (question.base, question.tuned)
        target = choose_target(sources, question.both, out=folder, form=form, rank=rank, force=force)
    work = WorkFolder.beside(folder)
    with work.held(key, folder):
        # Another process may have finished since, and its folder would be in the way of what is learned here.
        if (finished := finished_before()) is not None:
            return finished
        audited = question.audited.audit
        _require_written(question.pairs, audited, settings.per)
        of_tasks = {
            "tasks": {name: described_task(name, columns) for name in names},
            "max_new_tokens": columns.max_new_tokens,
            "data_seed": question.rows_by,
        }
        kept = Kept(work.folder, key)
        bench = open_to_heal(question, corpora, tasks, settings, prompts=asked, kept=kept)
        learned = learn(bench, settings, told=told)
        healing = reported_healing(bench, learned, settings, of_tasks)
        del bench  # the models are gone from memory before anything is written
        if target is None:
            return replace(healing, seconds=time.perf_counter() - started)
        written = apply_remedy(
            question.audited,
            _remedy(learned.state, healing),
            target,
            out=folder,
            rank=rank,
            compute=compute,
            progress=progress,
            beside=lambda result: {RECORD: _written(healing, result, started)},
            started=started,
        )
        return _written(healing, written, started)


def doses_for(
    record: str | os.PathLike[str], base: object, tuned: object = None, share: float = 1.0
) -> Doses:
    """Return the remedy `doses` from the ``heal.json``, or its folder, of a healing of the same tuned model.

    ``share`` is that of the way from the tuned model to the doses. SettingError if another model was healed, or weights
    were learned.
    """
    healing = Healing.load(record)
    if healing.learn == WEIGHTS:
        raise SettingError(
            f"doses is '{record}', whose healing learned weights and no doses; pass the healed model itself, or run "
            "intruders heal --learn doses"
        )
    _, model = sides_on_disk(base, tuned)
    digest = digest_of_model(model)
    if healing.of.get("tuned", digest) != digest:
        raise SettingError(
            f"doses is '{record}', which intruders heal learned for '{healing.tuned}' and not for '{model}'; pass the "
            "record of these two models, or learn it with intruders heal"
        )
    return doses_in(healing.doses, healing.elsewhere, share)


def doses_in(doses: Mapping[str, Sequence[float]], elsewhere: float | None, share: float = 1.0) -> Doses:
    """Return learned doses as a remedy; ``elsewhere`` is None where no other tensor was tuned."""
    return Doses(share=share, doses=doses, elsewhere=1.0 if elsewhere is None else elsewhere)


def _remedy(state: TunedState, healing: Healing) -> Doses | LearnedUpdates:
    """Return what is written: the doses, or learned weights in their doses."""
    doses = doses_in(healing.doses, healing.elsewhere)
    if state.learned is None:
        return doses
    updates = {
        name: update.scaled(healing.doses[name][0])
        if isinstance(update, LowRank)
        else healing.doses[name][0] * update
        for name, update in state.learned.items()
    }
    return LearnedUpdates(updates, doses)


def _checked_form(form: str, question: Question) -> str:
    """Return the form to write; SettingError where an adapter cannot store the doses."""
    require_same_vocabulary(question.both)  # a base that is resized first may do in any form
    chosen = chosen_form(form, None, question.both[1])
    dense = [pair.name for pair in question.pairs if pair.rank is None]
    if chosen == "adapter" and dense:
        raise SettingError(
            f"the update of '{dense[0]}' in '{question.both[1].source}' has no low rank, so no adapter can store it in "
            "a dose; pass --as checkpoint"
        )
    return chosen


def _require_written(pairs: Sequence[PairedMatrix], audit: Audit, per: str) -> None:
    """Refuse doses that an update does not have, or that cannot be written: what no audit examines has one a tensor."""
    known = {matrix.name for matrix in audit.matrices}
    known |= {skipped.name for skipped in audit.skipped if skipped.kind is SkipKind.UNCHANGED}
    for pair in pairs:
        if per == "direction" and pair.rank is None and pair.load() is not None:
            raise SettingError(
                f"per is 'direction', and the update of '{pair.name}' has no low rank; pass --per matrix"
            )
        if pair.name in known:
            continue
        if per == "direction" and (pair.rank or 1) > 1:
            raise SettingError(
                f"per is 'direction', and '{pair.name}' is not audited, so that it is written in one dose; pass "
                "--per matrix, or audit this matrix too"
            )
        if tensor_of(pair.name) != pair.name:
            raise SettingError(
                f"'{pair.name}' is one of several experts and is not audited, so that its own dose cannot be written; "
                "audit it too: leave out --exclude, or widen --include"
            )


def _written(healing: Healing, written: Mitigation, started: float) -> Healing:
    """Return the healing with the intruders before and after, and where and how it was written."""
    after = written.after
    counts = {} if after is None else {matrix.name: matrix.intruders for matrix in after.matrices}
    return replace(
        healing,
        out=written.out,
        form=written.form,
        seconds=time.perf_counter() - started,
        intruders_after=None if after is None else after.intruders,
        intruders={
            matrix.name: [matrix.intruders, counts.get(matrix.name)] for matrix in written.before.matrices
        },
        norms={
            matrix.name: [matrix.update_norm_before, matrix.update_norm_after] for matrix in written.matrices
        },
    )
