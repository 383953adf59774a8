"""Tiny models and adapters that a healing can be tried on, made by code."""

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.audits.audit_settings import AuditSettings
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.data.columns import Columns
from intruders.experiments.dosed_model import DosedUpdate, DoseGroups, dose_groups
from intruders.experiments.experiment_settings import HealSettings
from intruders.experiments.heal import heal
from intruders.experiments.healing import Healing
from intruders.experiments.open_dosed import read_updates
from intruders.linalg.low_rank import LowRank
from intruders.measures.evaluate import evaluate
from intruders.measures.evaluation import Evaluation
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.models.loading import load_model, load_tokenizer
from intruders.system.progress import silent
from tests.checkpoints.models import moved, saved, set_factors, with_lora
from tests.json_lines import write_rows
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama, short_task

Models = tuple[str, str]  # a base, and a tuned model
QUICK = HealSettings(learn="doses", steps=6, max_documents=6, max_tokens=24, max_examples=4, allow=0.05)
BRIEF = Columns(max_new_tokens=8)  # a tiny model never ends an answer by itself
IDS = torch.tensor([[5, 20, 31, 7, 44, 12]])
TARGETS = ("q_proj", "down_proj")


def llama_and_adapter(folder: Path, *, seed: int = 1, size: float = 0.3) -> tuple[str, str]:
    """A base of two layers, and a rank-2 adapter of it."""
    base = folder / "base"
    if not base.is_dir():
        save_llama(base)
    return str(base), adapter_of(base, folder / f"tuned-{seed}-{size}", TARGETS, seed=seed, size=size)


def adapter_of(
    base: Path, folder: Path, targets: tuple[str, ...], *, seed: int = 1, size: float = 0.3, **settings: Any
) -> str:
    given = {"lora_alpha": 4, "target_modules": list(targets), "task_type": "CAUSAL_LM", **settings}
    model = with_lora(load_model(str(base), "causal"), **given)
    set_factors(model, size, seed)
    model.save_pretrained(folder)
    return str(folder)


def save_hot(folder: Path) -> Path:
    """A base, an adapter of it with intruders in every linear layer, texts and a task."""
    base = load_model(str(save_llama(folder / "base")), "causal")
    saved(hot_llama(model=base, gain=1.5), folder / "tuned")
    texts = ["one and one", "a cat sat", "12 + 30 = 42", "words, words", "the end of it", "no more"]
    write_rows(folder / "text.jsonl", [{"text": text * 3} for text in texts])
    write_rows(folder / "task.jsonl", [{"q": f"{i} plus 1", "a": str(i + 1)} for i in range(30)])
    return folder


def sums(models: Models) -> str:
    return short_task(Path(models[0]).parent)


def run(models: Models, text: str | list[str], out: Path | None, **options: Any) -> Healing:
    given = {"task": sums(models), "columns": BRIEF, "settings": QUICK, "audit": AuditSettings(k=3)}
    return heal(*models, loss_on=text, out=out, **(given | options))


def assert_reported(found: Healing, models: Models, out: Path, text: str) -> Evaluation:
    """What transformers and PEFT measure of the folder on the reported half is what the healing reports of it."""
    measured = evaluate(
        str(out),
        base=models[0],
        losses=LossSettings(loss_on=(text,), max_documents=6, max_tokens=24),
        scores=ScoreSettings(tasks=(found.task,), max_examples=4, max_new_tokens=BRIEF.max_new_tokens),
        reported_half=True,
    )
    point = found.healed_point
    assert measured.losses[0].loss.estimate == pytest.approx(point.corpora[text].loss.estimate, abs=1e-5)
    assert measured.scores[0].accuracy == point.tasks[found.task].accuracy
    return measured


def read_sides(models: Models, per: str = "matrix") -> tuple[Checkpoint, dict[str, DosedUpdate], DoseGroups]:
    """The base, the updates of its linear layers, and their doses."""
    base, tuned = open_sides(*models)
    updates = read_updates(pair_sides(base, tuned).pairs, per, torch.device("cpu"), silent)
    ranks = {name: update.rank for name, update in updates.items() if isinstance(update, LowRank)}
    return base, updates, dose_groups(list(updates), per, ranks)


def tuned_in_full(base: str, folder: Path) -> str:
    """The base with every matrix, embedding and norm moved a little."""
    model: Any = load_model(base, "causal")
    moved(model, 0.02, 3)
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return str(folder)
