"""A base and adapters of many kinds, audited together and alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from intruders.checkpoints.opening.open import open_checkpoint
from tests.audits.fleet.compared_audits import medium_model
from tests.checkpoints.models import saved
from tests.mitigation.hot import hot_llama, medium_llama, wide_spectrum


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that vectors are found by the Krylov method, with the spectra of trained weights."""
    return saved(wide_spectrum(medium_llama()), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weak and strong ones of several ranks and targets, DoRA, one untrained, one with NaN, and two that do not fit."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "strong": hot_llama(1, 1.5, medium_model(), r=2),
        "strong too": hot_llama(2, 1.2, medium_model(), r=2),
        "weak": hot_llama(3, 0.02, medium_model(), r=2),
        "of rank 4": hot_llama(4, 0.5, medium_model(), r=4, target_modules=["q_proj", "v_proj"]),
        "patterns": hot_llama(5, 0.5, medium_model(), r=2, rank_pattern={"q_proj": 4}),
        "dora": hot_llama(6, 0.5, medium_model(), r=2, use_dora=True),
        "untrained": hot_llama(7, 0.0, medium_model(), r=2),
        "with NaN": hot_llama(8, 0.5, medium_model(), r=2),
    }
    found = {name: str(saved(model, folder / name)) for name, model in made.items()}
    weights = folder / "with NaN" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors[next(reversed(tensors))][0, 0] = torch.nan
    save_file(tensors, weights)
    found["of another base"] = str(saved(hot_llama(9), folder / "of another base"))
    found["missing"] = str(folder / "missing")
    return found


@pytest.fixture
def two(adapters: dict[str, str]) -> list[str]:
    return [adapters["strong"], adapters["weak"]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each tensor of a base was read."""
    counts: Counter[str] = Counter()

    def counting(source: Any) -> Any:
        checkpoint = open_checkpoint(source)

        def counted(name: str, stored: Any) -> Any:
            def read() -> torch.Tensor:
                counts[name] += 1
                return stored.read()

            return replace(stored, read=read)

        return replace(checkpoint, tensors={n: counted(n, s) for n, s in checkpoint.tensors.items()})

    monkeypatch.setattr("intruders.audits.fleet.audit_fleet.open_checkpoint", counting)
    return counts
