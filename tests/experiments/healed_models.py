"""Tiny models and adapters that a healing can be tried on, made by code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intruders.experiments.experiment_settings import HealSettings
from intruders.models.loading import load_model
from tests.checkpoints.models import moved, set_factors
from tests.tiny import save_gpt2, save_llama

QUICK = HealSettings(steps=6, max_documents=6, max_tokens=24, max_examples=4, allow=0.05)
TARGETS = ("q_proj", "down_proj")


def llama_and_adapter(folder: Path, *, seed: int = 1, size: float = 0.3) -> tuple[str, str]:
    """A base of two layers, and a rank-2 adapter of it."""
    base = folder / "base"
    if not base.is_dir():
        save_llama(base)
    return str(base), adapter_of(base, folder / f"tuned-{seed}-{size}", TARGETS, seed=seed, size=size)


def gpt2_and_adapter(folder: Path) -> tuple[str, str]:
    """Conv1D, whose weights are stored input side first."""
    base = save_gpt2(folder / "base")
    return str(base), adapter_of(base, folder / "tuned", ("c_attn", "c_fc"), fan_in_fan_out=True)


def adapter_of(
    base: Path, folder: Path, targets: tuple[str, ...], *, seed: int = 1, size: float = 0.3, **settings: Any
) -> str:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(
        load_model(str(base), "causal"),
        LoraConfig(r=2, lora_alpha=4, target_modules=list(targets), task_type="CAUSAL_LM", **settings),
    )
    set_factors(model, size, seed)
    model.save_pretrained(folder)
    return str(folder)


def tuned_in_full(base: str, folder: Path) -> str:
    """The base with every matrix, embedding and norm moved a little."""
    model: Any = load_model(base, "causal")
    moved(model, 0.02, 3)
    model.save_pretrained(folder)
    from intruders.models.loading import load_tokenizer

    load_tokenizer(base).save_pretrained(folder)
    return str(folder)
