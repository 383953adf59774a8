"""Runs of seconds on tiny models, and whether two of them came to the same model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from intruders.training.finetune_config import FinetuneConfig
from intruders.training.run_settings import METHODS
from tests.json_lines import write_rows
from tests.tiny import short_task

OURS = sorted(name for name, method in METHODS.items() if not method.is_plugin)


def config_of(base: Path, out: Path, **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "task": settings.get("task") or short_task(base.parent),
        "rank": 2,
        "lr": 1e-2,
        "steps": 6,
        "batch_size": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "max_train_samples": 40,
        "max_eval_samples": 4,
        "max_new_tokens": 8,  # a tiny model never ends an answer by itself
        "precision": "fp32",
    } | settings
    return FinetuneConfig(base=str(base), out=str(out), **given)


def without_dropout(folder: Path) -> Path:
    """The BERT in a folder, which drops nothing out from here on."""
    file = folder / "config.json"
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | off))
    return folder


def matched(folder: Path) -> dict[str, Any]:
    """The settings of a run that stops at the accuracy 1 on two classes that a tiny model learns at once."""
    rows = folder / "rows.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"{'aaaa' if i % 2 else 'zzzz'}\t{i % 2}\n" for i in range(60)))
    return {
        "task": f"{rows}?text=text&label=label", "method": "full", "lr": 3e-3, "steps": 200, "batch_size": 8,
        "match": "accuracy=1.0", "eval_steps": 5, "max_eval_samples": None,
    }  # fmt: skip


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return load_file(folder / name)
    raise AssertionError(f"no model in {folder}: {list(folder.iterdir())}")


def logits_of(model: Any, ids: Sequence[int] = range(5, 45)) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([list(ids)])).logits  # type: ignore[no-any-return]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def when(event: str, act: Callable[[Any, Any], object]) -> TrainerCallback:
    """A callback that acts on the state and the model at an event of a training, such as "step_end"."""

    def call(args: Any, state: Any, control: Any, model: Any = None, **given: Any) -> None:
        act(state, model)

    callback = TrainerCallback()
    setattr(callback, f"on_{event}", call)
    return callback


def ruined(step: int, value: float = torch.nan) -> TrainerCallback:
    """NaN or infinity in the first trained matrix from a step on."""

    def ruin(state: Any, model: Any) -> None:
        if state.global_step == step:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(value)

    return when("step_end", ruin)


class Interrupt(TrainerCallback):  # type: ignore[misc]
    """Stops a run after a step; after its third one checkpoint is complete."""

    def __init__(self, step: int = 3) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def rows_file(file: Path, numbers: range, **lengths: int) -> Path:
    """Rows with a prompt and a completion, of 6 tokens where no other length is given by line."""
    wanted = {int(line.removeprefix("line")): length for line, length in lengths.items()}
    rows = [{"p": f"{i:03}", "c": "x" * (wanted.get(line, 6) - 4)} for line, i in enumerate(numbers, start=1)]
    return write_rows(file, rows)


def on_rows(file: Path, **others: Any) -> dict[str, Any]:
    return {"task": str(file), "prompt": "p", "completion": "c", "max_train_samples": None} | others
