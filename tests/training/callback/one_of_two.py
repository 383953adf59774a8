"""One of two processes that train together, over gloo on the CPU.

What it saw of each case is written to ``FOLDER/CASE/RANK.json`` as soon as the case has ended. Forked by
``test_callback_processes``, with the environment that torchrun would give it.
"""

import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from intruders.errors import IntrudersError
from intruders.training.callback.callback import IntruderCallback
from tests.training.callback.trainers import prepared, tiny_trainer
from tests.training.tiny_runs import when


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

    trace = folder / "trace.parquet"

    def take_the_trace(state: Any, model: Any) -> None:
        if state.is_world_process_zero and state.global_step == 1:
            trace.mkdir()

    trainer = tiny_trainer(prepared(base, "lora"), folder / "out", max_steps=40)
    trainer.add_callback(when("step_begin", take_the_trace))
    trainer.add_callback(IntruderCallback(trainer, every=2, stop_above=10_000, trace=trace))
    return refused_by(trainer.train)


def first_process_only(base: Path, folder: Path) -> dict[str, Any]:
    """Scripts often give the callbacks that report to the first process alone."""
    trainer = tiny_trainer(prepared(base, "lora"), folder / "out")
    if trainer.is_world_process_zero():
        trainer.add_callback(IntruderCallback(trainer, every=2))
    trainer.train()
    return {"step": trainer.state.global_step}


def sharded(base: Path, folder: Path) -> dict[str, Any]:
    """Each kind of shard, made after the callback has seen the model; the Trainer itself shards on a GPU alone."""
    return {
        f"FSDP {version}, {method}": audit_of_shards(base, folder, version, method)
        for version, method in itertools.product((1, 2), ("full", "lora", "dora"))
    }


def audit_of_shards(base: Path, folder: Path, version: int, method: str) -> dict[str, Any]:
    torch.manual_seed(0)  # the factors of LoRA start at random, and alike on both processes
    callback = IntruderCallback(every=2, stop_above=0, trace=folder / f"{version}-{method}.parquet")
    trainer = tiny_trainer(prepared(base, method), folder, callbacks=[callback])
    model = shard(trainer.model, version)
    told = (trainer.args, trainer.state, trainer.control)
    callback.on_train_begin(*told, model=model)
    two_steps(model)
    trainer.state.global_step = 2
    callback.on_step_end(*told, model=model)
    trainer.state.global_step = 3
    callback.on_train_end(*told, model=model)
    found = callback.last
    return {
        "stops": trainer.control.should_training_stop,
        "found": None if found is None else {matrix.name: matrix.intruders for matrix in found.matrices},
        "logged": [entry["step"] for entry in trainer.state.log_history],
    }


def kept_whole(base: Path, folder: Path) -> dict[str, Any]:
    """The last state below a limit, which the last audit is not, put back on both."""
    torch.manual_seed(0)
    model = prepared(base, "lora")
    trainer = tiny_trainer(model, folder / "out", max_steps=40)
    callback = IntruderCallback(trainer, every=1, keep_intruders_below=1000)

    states: dict[int, dict[str, torch.Tensor]] = {}

    def keep(state: Any, model: Any) -> None:
        states[state.global_step] = {n: p.detach().clone() for n, p in model.named_parameters()}

    def lower_the_limit(state: Any, model: Any) -> None:
        if state.global_step == 2:  # from here on no state is below
            callback._watch = replace(callback._watch, keep_intruders_below=1)

    for observer in (when("step_end", keep), when("step_begin", lower_the_limit), callback):
        trainer.add_callback(observer)
    trainer.train()
    return {
        "step": trainer.state.global_step,
        "put back": callback.put_back["step"],
        "is the same": same(dict(model.named_parameters()), states[callback.put_back["step"]]),
        "moved": not same(dict(model.named_parameters()), states[trainer.state.global_step]),
    }


def same(now: dict[str, Any], then: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, then[name]) for name, tensor in now.items())


def two_steps(model: Any) -> None:
    rows = torch.randint(5, 60, (8, 12), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def refused(base: Path, folder: Path) -> dict[str, Any]:
    """Shards that the callback meets too late, or that no audit can measure; the same words on both processes."""
    seen = {}
    for version, method in itertools.product((1, 2), ("full", "pissa")):
        model = prepared(base, method)
        trainer = tiny_trainer(model, folder)
        begin = partial(IntruderCallback().on_train_begin, trainer.args, trainer.state, trainer.control)
        model = shard(model, version)
        seen[f"FSDP {version}, {method}"] = refused_by(partial(begin, model=model))
    return seen


def shard(model: Any, version: int) -> Any:
    """Layer by layer, as accelerate does."""
    layers = [module for module in model.modules() if isinstance(module, LlamaDecoderLayer)]
    if version == 2:
        for layer in layers:
            torch.distributed.fsdp.fully_shard(layer)
        return torch.distributed.fsdp.fully_shard(model)
    return torch.distributed.fsdp.FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({LlamaDecoderLayer}),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )


CASES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "stop": stop, "failure": fail_on_the_first, "alone": first_process_only, "sharded": sharded, "refused": refused,
    "kept": kept_whole,
}  # fmt: skip


def refused_by(act: Callable[[], object]) -> dict[str, Any]:
    try:
        act()
    except IntrudersError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": None}


def take_part(rank: int, port: int, base: Path, folder: Path) -> None:
    """Go through all cases as the process ``rank``; what it prints is in ``FOLDER/RANK.txt``."""
    os.dup2(os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w")
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    # The process that it is forked from trained alone.
    AcceleratorState._reset_state(reset_partial_state=True)
    for name, case in CASES.items():
        (folder / name).mkdir(exist_ok=True)
        seen = case(base, folder / name)
        (folder / name / f"{rank}.json").write_text(json.dumps(seen))
