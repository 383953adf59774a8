"""The work of every stage of a run; each leaves its result in the run's folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...audits.audit import audit_sides
from ...audits.result.audit_result import Audit
from ...audits.scales.critical_scales import critical_scales
from ...data.columns import Columns
from ...data.load_task import load_task
from ...experiments.attribute import attribute
from ...experiments.compare_remedies import compare_remedies
from ...experiments.experiment_settings import ComparisonSettings
from ...experiments.intervene import intervene
from ...experiments.sweep import InterventionSweep, intervention_rows
from ...measures.base_inputs import documents_of
from ...measures.corpus_loss import summarize_losses
from ...measures.evaluation import Evaluation
from ...measures.kl_on_task import kl_on_task
from ...measures.measure_settings import LossSettings, ScoreSettings
from ...measures.output_energy import output_energy
from ...measures.task_score import readable, score_task
from ...models.loading_settings import Loading
from ...models.tuned_model import open_for_task
from ...system.files import write_atomically
from ...training.finetune import finetune
from ...training.finetune_config import FinetuneConfig
from ...training.run_folder import RunFolder
from ...training.train_in_sequence import train_in_sequence
from ..describe.runs import Run
from .base_losses import SAMPLE_SEED, base_losses, corpora_of, losses_of
from .rank_one_terms import random_rank_one
from .stages import (
    ATTRIBUTION_RESULT,
    AUDIT,
    EVALUATION,
    INTERVENTION,
    KL,
    MECHANISM,
    OUTPUTS,
    REMEDIES_RESULT,
    SCALE,
    SEQUENCE,
    Callbacks,
)
from .study_folder import ATTRIBUTION, INTERVENTIONS, MODEL, REMEDIES
from .training_precision import as_the_others


def do(
    stage: str, run: Run, folder: Path, bases: Path, callbacks: Callbacks, precision: str | None = None
) -> None:
    """Do one stage of ``run`` in ``folder``; ``callbacks`` makes those of the training, whose auto is ``precision``."""
    if stage == "mechanism":
        _mechanism(run, folder)
        return
    assert run.config is not None
    config = replace(as_the_others(run.config, folder, precision), out=str(folder / MODEL))
    match stage:
        case "train":
            # What cannot be read is told now, and not after the training.
            corpora_of(run.measure.part(LossSettings))
            _train(config, callbacks)
        case "sequence":
            _sequence(run, config, folder, callbacks)
        case "audit":
            _audit(run, folder)
        case "evaluate":
            _evaluate(run, config, folder, bases)
        case "outputs":
            _outputs(run, folder)
        case "kl":
            _kl(run, config, folder)
        case "attribute":
            _attribute(run, config, folder)
        case "scale":
            _scale(run, folder)
        case "intervene":
            _intervene(run, config, folder)
        case "remedies":
            _remedies(run, config, folder)


def _train(config: FinetuneConfig, callbacks: Callbacks) -> None:
    folder = Path(config.out)
    if folder.is_dir() and not (folder / "run.json").is_file():
        shutil.rmtree(folder)  # killed before its record was written: nothing to go on from
    finetune(config, list(callbacks()))


def _audit(run: Run, folder: Path) -> None:
    audit_sides(run.base, folder / MODEL, run.measure.audit).save(folder / AUDIT)


def _evaluate(run: Run, config: FinetuneConfig, folder: Path, bases: Path) -> None:
    model, settings = str(folder / MODEL), run.measure.part(LossSettings)
    loading = run.measure.part(Loading)
    losses = []
    if settings.loss_on:
        corpora = corpora_of(settings)
        before = base_losses(run.base, settings, corpora, bases, loading)
        after = losses_of(model, run.base, settings, corpora, loading)
        losses = [
            summarize_losses(name, parts, after[name], before[name], seed=SAMPLE_SEED)
            for name, parts in corpora.items()
        ]
    scores = []
    task = load_task(config.task, config, config.data_seed)
    if task.score != "none":
        opened, labels = open_for_task(model, task, run.base, loading)
        most = run.measure.max_examples
        if config.drop_too_long:  # as the training did
            task = readable(task, opened.tokenizer, opened.context, max_examples=most, drop_too_long=True)
        scores.append(score_task(opened, task, max_examples=most, labels=labels))
    evaluation = Evaluation(model=MODEL, base=run.base, losses=losses, scores=scores, harness=[])
    evaluation.save(folder / EVALUATION)


def _outputs(run: Run, folder: Path) -> None:
    measure = run.measure
    documents = documents_of(corpora_of(measure.part(LossSettings)))
    energy = output_energy(
        run.base,
        folder / MODEL,
        documents,
        window=measure.window,
        audit=measure.audit,
        loading=measure.part(Loading),
    )
    _write(folder / OUTPUTS, energy.as_dict())


def _kl(run: Run, config: FinetuneConfig, folder: Path) -> None:
    wanted = run.measure.kl_to_base
    assert wanted is not None
    task = load_task(config.task, config, config.data_seed)
    kl = kl_on_task(
        run.base,
        str(folder / MODEL),
        task,
        max_examples=wanted.max_examples,
        drop_too_long=config.drop_too_long,
        loading=run.measure.part(Loading),
    )
    _write(folder / KL, kl.as_dict())


def _attribute(run: Run, config: FinetuneConfig, folder: Path) -> None:
    """Split the rise of the loss; finished passes stay in a folder, so that a killed run resumes within them."""
    measure, wanted = run.measure, run.measure.attribute
    assert wanted is not None
    file = folder / ATTRIBUTION_RESULT
    audit = Audit.load(folder / AUDIT)
    if not audit.matrices:
        _write(file, {"skipped": "the run changed no matrix", "modules": []})
        return
    parts = attribute(
        run.base,
        str(folder / MODEL),
        loss_on=measure.loss_on[:1],
        settings=wanted,
        columns=config.part(Columns),
        audit=audit,
        data_seed=config.data_seed,
        seed=SAMPLE_SEED,
        keep=folder / ATTRIBUTION,
        loading=measure.part(Loading),
    )
    _write(file, parts.to_document() | {"skipped": None})


def _scale(run: Run, folder: Path) -> None:
    scales = critical_scales(run.base, folder / MODEL, audit=run.measure.audit)
    _write(folder / SCALE, scales.to_document())


def _intervene(run: Run, config: FinetuneConfig, folder: Path) -> None:
    """Measure the interventions; finished ones stay in a folder, so that a killed run resumes within them."""
    measure, wanted = run.measure, run.measure.intervene
    assert wanted is not None
    file = folder / INTERVENTION
    has_answers = load_task(config.task, config, config.data_seed).score != "none"
    audit = Audit.load(folder / AUDIT)
    if audit.intruders == 0:
        _write(file, {"skipped": "the run has no intruders to scale", "rows": []})
        return
    if not (measure.loss_on or has_answers):
        _write(file, {"skipped": "neither a corpus nor a task with right answers to measure", "rows": []})
        return
    sweep: InterventionSweep = intervene(
        run.base,
        str(folder / MODEL),
        sweep=wanted,
        losses=measure.part(LossSettings),
        scores=ScoreSettings(
            **config.part(Columns).values(),
            tasks=(config.task,) if has_answers else (),
            max_examples=measure.max_examples,
        ),
        audit=audit,
        data_seed=config.data_seed,
        seed=SAMPLE_SEED,
        keep=folder / INTERVENTIONS,
        drop_too_long=config.drop_too_long,
        loading=measure.part(Loading),
    )
    _write(file, {"skipped": None, "rows": intervention_rows(sweep), "verdicts": sweep.verdicts()})


def _remedies(run: Run, config: FinetuneConfig, folder: Path) -> None:
    """Compare the remedies; finished parts stay in a folder, so that a killed run resumes within them."""
    measure, wanted = run.measure, run.measure.remedies
    assert wanted is not None
    audit = Audit.load(folder / AUDIT)
    out = folder / REMEDIES
    if not audit.matrices:
        out.mkdir(exist_ok=True)
        _write(
            folder / REMEDIES_RESULT, {"skipped": "the run changed no matrix", "curve": [], "remedies": []}
        )
        return
    comparison = compare_remedies(
        run.base,
        str(folder / MODEL),
        comparison=wanted.part(ComparisonSettings),
        losses=replace(
            measure.part(LossSettings), max_documents=wanted.max_documents or measure.max_documents
        ),
        scores=ScoreSettings(
            **config.part(Columns).values(),
            tasks=(config.task,),
            max_examples=wanted.max_examples or measure.max_examples,
        ),
        audit=audit,
        data_seed=config.data_seed,
        seed=SAMPLE_SEED,
        out=out,
        drop_too_long=config.drop_too_long,
        loading=measure.part(Loading),
    )
    comparison.save(out)


def _sequence(run: Run, config: FinetuneConfig, folder: Path, callbacks: Callbacks) -> None:
    for stage in Path(config.out).glob("stage-*"):
        if not (stage / "run.json").is_file():
            shutil.rmtree(stage)
    sequence = train_in_sequence(
        config,
        run.tasks,
        adapters=run.adapters,
        retrain_heads=run.retrain_heads,
        callbacks=lambda: list(callbacks()),
        audit=run.measure.audit,
    )
    seconds = sum(
        RunFolder(Path(config.out) / f"stage-{number}").record["seconds"]["training"]
        for number in range(1, len(run.tasks) + 1)
    )
    _write(folder / SEQUENCE, sequence.to_document() | {"seconds": seconds})


def _mechanism(run: Run, folder: Path) -> None:
    settings = replace(run.measure.audit, include=run.include, exclude=run.exclude)
    rows = random_rank_one(run.base, run.multiples, audit=settings, seed=run.seed)
    _write(folder / MECHANISM, {"rows": [asdict(row) for row in rows]})


def _write(file: Path, document: dict[str, Any]) -> None:
    content = json.dumps({"schema": 1} | document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(file, content.encode())
