"""Shows what an audit costs beside the training that it watches: ``python -m benchmarks.callback [steps]``.

SmolLM2-135M is trained on random tokens, by LoRA and in full, with the callback at every second step. The first audit
computes the base's leading vectors, the later ones know them. An audit every 25 steps should cost less than a tenth of
the training.
"""

import os
import sys
import tempfile
import time
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from intruders.models.base_model import base_model_location
from intruders.models.encoding import PadRight
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.methods import prepare

BATCH, TOKENS, EVERY = 8, 128, 2


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step, without what callbacks take after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


class Audits(IntruderCallback):
    """Seconds of every audit."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer, every=EVERY, trace=False)
        self.seconds: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        began, before = time.perf_counter(), self.last
        super().on_step_end(args, state, control, model=model, **kwargs)
        if self.last is not before:
            self.seconds.append(time.perf_counter() - began)


def measure(method: str, steps: int) -> str:
    settings: dict[str, Any] = {"rank": 8, "lr": 1e-3} if method == "lora" else {"lr": 5e-5}
    location = base_model_location("smollm2-135m")
    config = FinetuneConfig(
        base=location, task="word-problems", out="unused", method=method, steps=1, **settings
    )
    model = prepare(load_model(location, "causal"), config, "causal")
    rows = torch.randint(
        0, 40_000, (BATCH * steps, TOKENS), generator=torch.Generator().manual_seed(0)
    ).tolist()
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=out, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=config.lr,
                report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1000,
            ),
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            data_collator=PadRight(0),
            callbacks=[clock],
        )  # fmt: skip
        audits = Audits(trainer)
        trainer.add_callback(audits)
        trainer.train()
    step, first, later = median(clock.seconds), audits.seconds[0], median(audits.seconds[1:])
    return (
        f"{method}: a step {step:.2f} s, the first audit {first:.2f} s, a later one {later:.2f} s, "
        f"{100 * later / (25 * step):.1f} % of 25 steps"
    )


def main(steps: int = 6) -> None:
    print(f"SmolLM2-135M, batches of {BATCH} rows of {TOKENS} tokens, {torch.get_num_threads()} threads")
    for method in ("lora", "full"):
        print(measure(method, steps), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
