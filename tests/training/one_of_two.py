"""One of two processes that train together, over gloo on the CPU: ``python one_of_two.py BASE FOLDER``.

What it saw of each case is written to ``FOLDER/CASE/RANK.json`` as soon as the case has ended. Started by
``test_callback_processes``, as torchrun would start it.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from intruders.errors import IntrudersError
from intruders.training.callback import IntruderCallback
from training.trainers import prepared, tiny_trainer


def stop(base: Path, folder: Path) -> dict[str, Any]:
    trainer = tiny_trainer(prepared(base, "lora"), folder / "out", max_steps=40)
    callback = IntruderCallback(trainer, every=2, stop_above=0)
    trainer.add_callback(callback)
    trainer.train()
    return {
        "processes": torch.distributed.get_world_size(),
        "step": trainer.state.global_step,
        "stopped": callback.has_stopped,
        "intruders": None if callback.last is None else callback.last.intruders,
    }


def fail_on_the_first(base: Path, folder: Path) -> dict[str, Any]:
    """The trace cannot be written any more, which the first process alone can know."""

    class TakeTheTrace(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero and state.global_step == 1:
                (folder / "trace.parquet").mkdir()

    trainer = tiny_trainer(prepared(base, "lora"), folder / "out", max_steps=40)
    trainer.add_callback(TakeTheTrace())
    trainer.add_callback(
        IntruderCallback(trainer, every=2, stop_above=10_000, trace=folder / "trace.parquet")
    )
    return refused_by(trainer.train)


def first_process_only(base: Path, folder: Path) -> dict[str, Any]:
    """Scripts often give the callbacks that report to the first process alone."""
    trainer = tiny_trainer(prepared(base, "lora"), folder / "out")
    if trainer.is_world_process_zero():
        trainer.add_callback(IntruderCallback(trainer, every=2))
    trainer.train()
    return {"step": trainer.state.global_step}


def sharded(base: Path, folder: Path) -> dict[str, Any]:
    """Each kind of shard, made before the callback and after it; the Trainer itself shards on a GPU alone."""
    seen = {}
    for version, method in itertools.product((1, 2), ("full", "lora")):
        trainer = tiny_trainer(prepared(base, method), folder / "out")
        callback = IntruderCallback(trainer, stop_above=0)
        trainer.model = shard(trainer.model, version)
        begin = partial(callback.on_train_begin, trainer.args, trainer.state, trainer.control)
        seen[f"FSDP {version}, {method}, since"] = refused_by(partial(begin, model=trainer.model))
        seen[f"FSDP {version}, {method}, before"] = refused_by(partial(IntruderCallback, trainer))
    return seen


def shard(model: Any, version: int) -> Any:
    if version == 2:
        return torch.distributed.fsdp.fully_shard(model)
    return torch.distributed.fsdp.FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), use_orig_params=True
    )


CASES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "stop": stop,
    "failure": fail_on_the_first,
    "alone": first_process_only,
    "sharded": sharded,
}


def refused_by(act: Callable[[], object]) -> dict[str, Any]:
    try:
        act()
    except IntrudersError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None}


if __name__ == "__main__":
    base, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name, case in CASES.items():
        (folder / name).mkdir(exist_ok=True)
        seen = case(base, folder / name)
        (folder / name / f"{torch.distributed.get_rank()}.json").write_text(json.dumps(seen))
