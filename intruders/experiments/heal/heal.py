"""Give back what a fine-tuning forgot and keep what it learned: one dose for every changed matrix."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...audits.audit import audited_whole
from ...audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ...audits.result.audit_result import Audit
from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.opening.many_sources import digest_of
from ...checkpoints.opening.open import Opened
from ...checkpoints.pairing.open_sides import named_sides, open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.selection import Selection
from ...data.columns import Columns
from ...data.corpora import Corpus
from ...data.task import Task
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.measure_settings import LossSettings
from ...mitigation.cases import read_cases
from ...mitigation.mitigate import mitigate
from ...mitigation.mitigation_result import Mitigation
from ...mitigation.remedies.doses import Doses as DosesRemedy
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.targets.choose_target import choose_target
from ...models.finetuned_folder import data_seed_of
from ...models.tuned_model import OpenedModel
from ...system.documents import read_document
from ...system.progress import Progress, silent
from ...system.versions import installed_versions
from ...version import __version__
from ..doses.dose_groups import ELSEWHERE, dose_groups
from ..doses.dosed_model import DosedModel, Doses
from ..doses.updates import Updates, read_updates
from .heal_bench import HealBench, distinct_models, open_models, tuned_elsewhere
from .heal_data import HealData, data_of, load_tasks, load_texts, own_answers, read_prompts, task_of_prompts
from .heal_settings import HEALING, HealSettings
from .healing import LITTLE, Healing
from .learning import Learning, Measured, at_bounds
from .objective import Objective, StepLosses, encoded_examples, encoded_texts
from .reported_points import HALVINGS, Measuring, least_dose, reported_points
from .work_folder import RECORD, SCHEMA, WorkFolder, require_same

Told = Callable[[str], None]

_STRANGE = 5.0  # nats per token of the base, on text that it does not know
_MEASURES = 11  # on the half that is reported, about


def _untold(line: str) -> None:
    """What nobody listens to."""


def heal(
    base: str | None,
    tuned: str | None = None,
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
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
    told: Told = _untold,
) -> Healing:
    """Give back what a fine-tuning forgot and keep what it learned.

    ``W_m = W0_m + a_m D_m`` with a dose a_m in [-0.5, 1.5] for every changed matrix m. The doses minimize
    ``KL(base || model)`` on text and the task's loss by Adam, from the smallest interpolation that keeps the task. Of
    all states the one is kept that forgets least on the documents that choose, at a task loss on validation examples
    of at most ``settings.allow`` above the tuned model's. Everything is reported on other documents and examples.

    Args:
      base: folder, Hub id or demo model of the model before fine-tuning; None where an adapter names it.
      tuned: that of the fine-tuned model, or its adapter. An adapter that names its base may come alone.
      task: what to keep, such as "word-problems", "sst2" or a data file; further ones are reported.
      loss_on: text such as the base was trained on; the doses are learned on the first, further ones are reported.
      out: folder for the healed model and its record ``heal.json``. None learns and measures, and writes nothing.
      settings: how the doses are learned, and on how much.
      columns: which columns of a data file are what.
      prompts: file of prompts, in the place of a task: the tuned model's own greedy answers are what to keep.
      audit: settings of the audit; or one of these two that was made before, or the path of a saved one.
      form: "adapter", "checkpoint" (merged), or "auto": what was given.
      force: replace ``out`` where it is a model or adapter.
      data_seed: of the task's rows, as in fine-tuning; that of the run if none is given.
      seed: of halves, samples, the order of learning, the shuffled control and the bootstrap.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).
      told: called with what a person should know before it starts.

    Returns:
      The doses, and what base, tuned, healed, interpolated and control models measured.

    Raises:
      SettingError: the task or the text is missing, a setting is out of range, or ``out`` is of another healing.
      NonFiniteError: a loss or a weight is NaN or infinite.
      IntrudersError: as the audit, the models and the data raise it.

    Example:
      ``intruders.heal("smollm2-135m", "my-adapter", task="word-problems", loss_on="pydoc", out="healed")``
    """
    started = time.perf_counter()
    given_base, given_tuned = named_sides(base, tuned)
    base, tuned = None if given_base is None else str(given_base), str(given_tuned)
    names = [task] if isinstance(task, str) else list(task)
    prompt_file = None if prompts is None else os.fspath(prompts)
    rows_by = data_seed_of(tuned) if data_seed is None else data_seed
    tasks = load_tasks(names, columns or Columns(), rows_by, prompt_file)
    asked = None if prompt_file is None else read_prompts(prompt_file)
    corpora = load_texts([loss_on] if isinstance(loss_on, str) else list(loss_on), settings, seed)
    sides = open_sides(base, tuned)
    base_source = base if base is not None else sides[0].source
    pairs = pair_sides(*sides, Selection(include_embeddings=True)).pairs
    written_form = _checked_form(form, sides[1], pairs)
    key = {
        "base": digest_of(base_source),
        "tuned": digest_of(tuned),
        "settings": settings.recorded(),
        "seed": seed,
        "text": {name: [part.digest for part in parts] for name, parts in corpora.items()},
        "tasks": {name: one.fingerprint() for name, one in tasks.items()},
        "prompts": asked,
        "form": written_form,
    }
    folder = None if out is None else Path(out)
    finished = None if folder is None or force else _finished(folder, key)
    if finished is not None:
        told(f"'{out}' is healed already, by the same settings; this is its record")
        return finished
    work = None if folder is None else WorkFolder.beside(folder)
    if folder is not None:
        choose_target(
            (given_base, given_tuned),
            sides,
            out=folder,
            form=form,
            rank=None,
            adapter_name="healed",
            force=force,
        )
    with nullcontext() if work is None or folder is None else work.held(key, folder):
        pairing, found_audit, _ = audited_whole(*sides, audit, compute, progress)
        session = Session(
            base,
            tuned,
            base_source,
            sides,
            pairs,
            settings,
            seed,
            progress,
            told,
            work,
            key,
            settings.max_examples,
        )
        healing = session.healed(corpora, tasks, asked, found_audit, pairing.pairs, compute)

        def done() -> Healing:
            return healing.finished(form=written_form, seconds=time.perf_counter() - started)

        if folder is not None:
            written = mitigate(
                given_base,
                given_tuned,
                remedy=remedy_of(healing),
                out=folder,
                form=form,
                rank="keep" if settings.per == "direction" and _is_plain(sides[1], written_form) else None,
                audit=found_audit,
                force=force,
                compute=compute,
                progress=progress,
                beside=lambda result: {RECORD: _json(_with_audits(done(), result, str(folder)), key)},
            )
            healing = _with_audits(done(), written, str(folder))
    return healing


@dataclass(frozen=True)
class Session:
    """One healing: the models open, learned and measured."""

    base: str | None
    tuned: str
    base_source: str
    sides: tuple[Checkpoint, Opened]
    pairs: Sequence[PairedMatrix]
    settings: HealSettings
    seed: int
    progress: Progress
    told: Told
    work: WorkFolder | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    max_examples: int | None = None

    def healed(
        self,
        corpora: Mapping[str, list[Corpus]],
        tasks: Mapping[str, Task],
        prompts: Sequence[str] | None,
        audit: Audit,
        audited: Sequence[PairedMatrix],
        compute: Compute,
    ) -> Healing:
        """The doses and the measures, before anything is written."""
        with self.benched(corpora, tasks, prompts) as (bench, data, updates):
            notes, most, start = self.start(bench, data)
            best, values, measured = self.learned(bench, data, start, most)
            return self._reported(
                bench, data, updates, values, best, start, measured, notes, audit, audited, compute
            )

    @contextmanager
    def benched(
        self, corpora: Mapping[str, list[Corpus]], tasks: Mapping[str, Task], prompts: Sequence[str] | None
    ) -> Iterator[tuple[HealBench, HealData, Updates]]:
        """The models with their updates in doses, and the data, for as long as the block lasts."""
        self.progress("open the models", 0, 1)
        language, scored = self._opened(tasks)
        device = next(language.model.parameters()).device
        updates = read_updates(self.pairs, self.settings.per, device, self.progress)
        if not updates.names:
            raise SettingError(
                f"'{self.tuned}' changes nothing in '{self.base_source}', so there is nothing to heal; pass the model "
                "after fine-tuning"
            )
        others = self._others(language)
        groups = dose_groups(updates.names, self.settings.per, updates.ranks, with_elsewhere=bool(others))
        doses = Doses(torch.ones(len(groups.names), device=device))
        with ExitStack() as entered:
            for model in distinct_models(language, scored):
                entered.enter_context(
                    DosedModel(model, self.sides[0], updates.by_name, groups, doses, others)
                )
            if prompts is not None:
                task = self._task_of(prompts, language)
                tasks, scored = {task.name: task}, {task.name: (language, [])}
            data = data_of(corpora, tasks, self.max_examples, self.seed)
            kept = KeptOutcomes(None if self.work is None else self.work.folder, dict(self.key))
            losses = LossSettings(max_tokens=self.settings.max_tokens, estimate=self.settings.estimate)
            yield (
                HealBench(language, scored, tasks, self.sides[0], groups, doses, losses, kept, self.seed),
                data,
                updates,
            )

    def _opened(
        self, tasks: Mapping[str, Task]
    ) -> tuple[OpenedModel, Mapping[str, tuple[OpenedModel, list[str]]]]:
        """The models; of an adapter of a causal model the base's, since its updates come beside the weights."""
        is_adapter = not isinstance(self.sides[1], Checkpoint)
        if is_adapter and all(task.kind == "causal" for task in tasks.values()):
            language, scored = open_models(self.base_source, None, tasks)
        else:
            language, scored = open_models(self.tuned, self.base, tasks)
        causal = [name for name, task in tasks.items() if task.kind == "causal"]
        if language.is_masked and (causal or not tasks):
            what = f"task {causal[0]!r} wants" if causal else "prompts want"
            raise SettingError(
                f"'{self.base_source}' is a masked language model, and {what} one that writes; pass a task of classes"
            )
        return language, scored

    def _others(self, language: OpenedModel) -> list[str]:
        """Other tensors that were tuned, such as norms, which a checkpoint alone can hold in a dose."""
        if not isinstance(self.sides[1], Checkpoint):
            return []
        return tuned_elsewhere(language.model, self.sides[0], [pair.name for pair in self.pairs])

    def _task_of(self, prompts: Sequence[str], language: OpenedModel) -> Task:
        answers = None if self.work is None else self.work.answers()
        if answers is None:
            self.progress(f"answer {len(prompts)} prompts", 0, 1)
            answers = own_answers(language, prompts)
            if self.work is not None:
                self.work.keep_answers(answers)
        return task_of_prompts(prompts, answers, self.seed)

    def start(self, bench: HealBench, data: HealData) -> tuple[list[str], float, float]:
        """What to know before it starts, the task loss that is allowed, and the interpolation to start from."""
        count = len(bench.groups.names)
        steps = 4 + HALVINGS
        base, tuned = [0.0] * count, [1.0] * count
        self.progress("measure the base", 0, steps)
        text_base, task_base = (
            bench.text_loss(base, data.choice),
            bench.task_loss(base, data.choice, data.task),
        )
        self.progress("measure the tuned model", 2, steps)
        text_tuned, task_tuned = (
            bench.text_loss(tuned, data.choice),
            bench.task_loss(tuned, data.choice, data.task),
        )
        notes = _warnings(data, text_base, text_tuned, task_base, task_tuned)
        for note in notes:
            self.told(note)
        most = task_tuned + self.settings.allow
        self.progress("find the interpolation to start from", 4, steps)
        return notes, most, least_dose(bench, data, most)

    def learned(
        self, bench: HealBench, data: HealData, start: float, most: float
    ) -> tuple[Measured, list[float], list[Measured]]:
        opened, labels = bench.scored[data.task]
        values = torch.full_like(bench.doses.values, start, requires_grad=True)
        bench.doses.values = values
        objective = Objective(
            bench.language,
            opened,
            bench.doses,
            encoded_texts(bench.language, data.learned_text, self.settings.max_tokens),
            encoded_examples(opened, bench.tasks[data.task], data.learned_examples, labels),
            self.seed,
        )

        def measure(step: int, allowed: float) -> Measured:
            doses = values.detach().tolist()
            task = bench.task_loss(doses, data.choice, data.task)
            return Measured(step, task, bench.text_loss(doses, data.choice) if task <= allowed else None)

        def told(step: int, losses: StepLosses) -> None:
            said = f"learn: divergence {losses.divergence:.3f}, task loss {losses.task:.4f}"
            self.progress(said, step, self.settings.steps)

        learning = Learning(
            values,
            self.settings,
            objective.gradient,
            measure,
            most,
            (lambda state: None) if self.work is None else self.work.keep_learning,
            told,
        )
        state = None if self.work is None else self.work.learning()
        if state is not None:
            learning.resume(state)
        self.progress("learn", 0, self.settings.steps)
        best, doses = learning.run()
        return best, doses, learning.measured

    def _reported(
        self,
        bench: HealBench,
        data: HealData,
        updates: Updates,
        values: list[float],
        best: Measured,
        start: float,
        measured: Sequence[Measured],
        notes: list[str],
        audit: Audit,
        audited: Sequence[PairedMatrix],
        compute: Compute,
    ) -> Healing:
        done = iter(range(_MEASURES + 1))

        def step(name: str) -> None:
            self.progress(name, min(next(done, _MEASURES), _MEASURES), _MEASURES)

        removing = self._removing(audit, audited, updates, compute)
        points = reported_points(Measuring(bench, data, step), values, updates.shapes, removing, self.seed)
        places = bench.groups.places
        count = at_bounds(values)
        if count:
            notes = [*notes, f"{count} of {len(values)} doses are at the end of their range, -0.5 or 1.5"]
        found = Healing(
            base=self.base_source,
            tuned=self.tuned,
            out=None,
            form="",
            per=self.settings.per,
            task=data.task,
            corpus=data.corpus,
            start=start,
            step=best.step,
            doses={
                name: [values[place] for place in own] for name, own in places.items() if name != ELSEWHERE
            },
            elsewhere=values[places[ELSEWHERE][0]] if ELSEWHERE in places else None,
            points=points,
            learning=[one.as_dict() for one in measured],
            documents={
                name: sum(len(part.documents) for part in parts)
                for name, parts in data.report.corpora.items()
            },
            examples={name: len(rows) for name, rows in data.report.examples.items()},
            digests={name: [part.digest for part in parts] for name, parts in data.report.corpora.items()},
            settings={**self.settings.as_dict(), "seed": self.seed},
            intruders_before=audit.intruders,
            intruders_after=None,
            at_bounds=count,
            notes=notes,
        )
        return found.finished(notes=[*notes, *found.gaps()])

    def _removing(
        self, audit: Audit, audited: Sequence[PairedMatrix], updates: Updates, compute: Compute
    ) -> dict[str, LowRank]:
        """What takes the intruders out of every matrix that has some."""
        if audit.intruders == 0:
            return {}
        remedy = ScaledIntruders(0.0)
        cases = read_cases(audited, audit, [remedy], self.sides[0].names(), compute.torch_device())
        changes = {case.matrix.name: remedy.change(case).added for case in cases}
        return {
            name: added for name, added in changes.items() if added is not None and name in updates.by_name
        }


def session_of(
    sides: tuple[Checkpoint, Opened],
    sources: tuple[str | None, str],
    settings: HealSettings,
    seed: int,
    progress: Progress,
    max_examples: int | None = None,
) -> Session:
    """A session that keeps nothing on the disk."""
    base, tuned = sources
    return Session(
        base,
        tuned,
        base if base is not None else sides[0].source,
        sides,
        pair_sides(*sides, Selection(include_embeddings=True)).pairs,
        settings,
        seed,
        progress,
        _untold,
        max_examples=settings.max_examples if max_examples is None else max_examples,
    )


def learned_doses(
    sides: tuple[Checkpoint, Opened],
    sources: tuple[str | None, str],
    corpora: Mapping[str, list[Corpus]],
    tasks: Mapping[str, Task],
    settings: HealSettings,
    max_examples: int | None,
    seed: int,
    progress: Progress = silent,
) -> DosesRemedy:
    """The remedy `doses` of a tuned model, learned on the halves that choose; nothing is reported or written.

    Args:
      sides: base and tuned, opened.
      sources: as they were given.
      corpora: the first is learned on.
      tasks: the first is kept.
      settings: how the doses are learned.
      max_examples: of every split; None for all.
      seed: of halves and of the order.
      progress: called with (what is being done, done, in all).

    Raises:
      IntrudersError: as :func:`heal`.
    """
    session = session_of(sides, sources, settings, seed, progress, max_examples)
    with session.benched(corpora, tasks, None) as (bench, data, _):
        _, most, start = session.start(bench, data)
        _, values, _ = session.learned(bench, data, start, most)
        places = bench.groups.places
    return DosesRemedy(
        doses={name: [values[place] for place in own] for name, own in places.items() if name != ELSEWHERE},
        elsewhere=values[places[ELSEWHERE][0]] if ELSEWHERE in places else 1.0,
    )


def remedy_of(healing: Healing, share: float = 1.0) -> DosesRemedy:
    """The doses of a healing as a remedy."""
    return DosesRemedy(
        share=share,
        doses=healing.doses,
        elsewhere=1.0 if healing.elsewhere is None else healing.elsewhere,
    )


def load_healing(file: str | os.PathLike[str]) -> Healing:
    """The record of a healing, or that of the folder that it wrote.

    Raises:
      SettingError: there is none. ResultFileError: it is no record of a healing.
    """
    path = Path(file)
    path = path / RECORD if path.is_dir() else path
    found = read_document(path, "the record of a healing", SCHEMA)
    if found is None:
        raise SettingError(f"'{file}' does not exist; expected the {RECORD} of a healing; pass its path")
    try:
        return Healing.from_dict(found["healing"])
    except (KeyError, TypeError, AssertionError) as error:
        raise SettingError(f"'{file}' is not the record of a healing; pass the {RECORD} of one") from error


def document(healing: Healing, key: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``heal.json``, in plain JSON values."""
    return {
        "schema": SCHEMA,
        "intruders_version": __version__,
        "of": dict(key),
        "healing": healing.to_document(),
        "versions": installed_versions(),
    }


def _json(healing: Healing, key: Mapping[str, Any]) -> str:
    return json.dumps(document(healing, key), ensure_ascii=False, allow_nan=False) + "\n"


def _finished(folder: Path, key: Mapping[str, Any]) -> Healing | None:
    """The healing that the folder has, if it is this one.

    Raises:
      SettingError: it is another one.
    """
    found = read_document(folder / RECORD, "the record of a healing", SCHEMA)
    if found is None:
        return None
    require_same(found.get("of", {}), key, f"'{folder}'", folder)
    return load_healing(folder)


def _checked_form(form: str, tuned: Opened, pairs: Sequence[PairedMatrix]) -> str:
    """The form that is written.

    Raises:
      SettingError: an adapter cannot hold the doses.
    """
    chosen = ("checkpoint" if isinstance(tuned, Checkpoint) else "adapter") if form == "auto" else form
    dense = [pair.name for pair in pairs if pair.rank is None]
    if chosen == "adapter" and dense:
        raise SettingError(
            f"the update of '{dense[0]}' in '{tuned.source}' has no low rank, so no adapter can store it in a dose; "
            "pass --as checkpoint"
        )
    return chosen


def _is_plain(tuned: Opened, form: str) -> bool:
    return (
        isinstance(tuned, Adapter)
        and form == "adapter"
        and tuned.peft_type == "LORA"
        and tuned.family == "PEFT"
    )


def _with_audits(healing: Healing, written: Mitigation, out: str) -> Healing:
    """The healing with the intruders before and after, and where it was written."""
    after = written.after
    counts = {} if after is None else {matrix.name: matrix.intruders for matrix in after.matrices}
    return healing.finished(
        out=out,
        intruders_after=None if after is None else after.intruders,
        intruders={
            matrix.name: [matrix.intruders, counts.get(matrix.name)] for matrix in written.before.matrices
        },
    )


def _warnings(
    data: HealData, text_base: float, text_tuned: float, task_base: float, task_tuned: float
) -> list[str]:
    """What a person should know before the learning starts."""
    found = []
    forgotten = text_tuned - text_base
    if forgotten < LITTLE:
        found.append(
            f"little was forgotten: the loss on {data.corpus} rose by {forgotten:.3f} nats per token, so there is "
            "little to heal"
        )
    if text_base > _STRANGE:
        found.append(
            f"the base itself has a loss of {text_base:.1f} nats per token on {data.corpus}: expected text such as it "
            "was trained on, in a language that it knows"
        )
    if task_tuned >= task_base:
        found.append(
            f"the tuned model is not better at {data.task} than the base (loss {task_tuned:.4f} and {task_base:.4f}): "
            "check that this is the task that it was tuned for"
        )
    return found
