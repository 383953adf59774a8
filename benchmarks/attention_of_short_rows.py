"""Shows what a training on a processor gains from attention by products where its rows are short.

    python -m benchmarks.attention_of_short_rows [PAIRS]

`intruders finetune` trains with torch's fused attention and as it does by itself, in turns in one process, in bf16
autocast: SmolLM2-135M on word problems (rows up to about 100 tokens), at rank 8 and in full, and MiniLM-L6 on topics
(64 tokens) at rank 8. One thread, and processor time of a step, so that a busy machine counts for little. The final
losses of both ways stand beside it.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from transformers import TrainerCallback

from intruders.models import loading
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig

from .machine import this_machine

_STEPS, _WARM = 10, 2  # the first ones allocate
_SHORT: dict[str, Any] = {"max_eval_samples": 2, "max_new_tokens": 4, "precision": "bf16", "steps": _STEPS}
_TRAININGS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M, rank 8": {
        "base": "smollm2-135m",
        "task": "word-problems",
        "batch_size": 8,
        "method": "lora",
        "rank": 8,
        "lr": 1e-3,
    },
    "SmolLM2-135M, full": {
        "base": "smollm2-135m",
        "task": "word-problems",
        "batch_size": 8,
        "method": "full",
        "lr": 2e-5,
    },
    "MiniLM-L6, rank 8": {
        "base": "minilm-l6",
        "task": "pydoc-topics-1",
        "batch_size": 16,
        "method": "lora",
        "rank": 8,
        "max_length": 64,
        "lr": 1e-3,
    },
}


class _Seconds(TrainerCallback):  # type: ignore[misc]
    """Processor time of each step, and the losses that are logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.loss = float("nan")
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)


def trained(settings: dict[str, Any], longest: int) -> _Seconds:
    """Train once, with attention by products for rows of up to ``longest`` tokens."""
    seen = _Seconds()
    with tempfile.TemporaryDirectory() as folder, patch.object(loading, "_SHORT", longest):
        config = FinetuneConfig(out=str(Path(folder) / "run"), logging_steps=_STEPS, **_SHORT, **settings)
        finetune(config, [seen])
    return seen


def main(pairs: int) -> None:
    torch.set_num_threads(1)
    print(f"{this_machine()}; processor seconds of a step, one thread, medians of {pairs} trainings each way")
    own = loading._SHORT
    for name, settings in _TRAININGS.items():
        ways = {"fused": 0, "by products": own}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        losses: dict[str, float] = {}
        for _ in range(pairs):
            for way, longest in ways.items():
                seen = trained(settings, longest)
                seconds[way].append(median(seen.seconds[_WARM:]))
                losses[way] = seen.loss
        fused, products = (median(times) for times in seconds.values())
        print(
            f"{name}: fused {fused:.2f} s, by products {products:.2f} s, {products / fused:.2f} of the time; "
            f"mean loss {losses['fused']:.4f} and {losses['by products']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
