"""The settings of a run as the Trainer has them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from intruders.training.finetune import finetune
from tests.training.tiny_runs import config_of


class LearningRates(TrainerCallback):  # type: ignore[misc]
    """Keeps the learning rate of every step, and what the Trainer was told of the warm-up."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.told: Any = None

    def on_step_begin(self, args: Any, *told: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.told = args.warmup_steps


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6, "warmup_steps": 3},
        {"steps": 6, "warmup_steps": 0.5},
        {"steps": None, "epochs": 1.5, "max_train_samples": 8, "warmup_steps": 0.5},
    ],
)
def test_the_rate_rises_for_the_steps_or_share(settings: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    """Transformers before 5.0 refuses any warm-up that is not a whole number of steps, 0.0 among them."""
    seen = LearningRates()
    finetune(config_of(llama, tmp_path / "run", lr=3e-3, **settings), [seen])
    assert seen.rates == pytest.approx([0, 1e-3, 2e-3, 3e-3, 2e-3, 1e-3])
    assert type(seen.told) is int
