"""The callback in a training on two processes: both stop together, both gather a sharded model, none waits for ever.

A process that waits for another one does so until the group's timeout, half an hour. The timeout here turns such a
wait into a failure; it is many times what the cases take, and says nothing of speed.
"""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import forked
from tests.tiny import save_llama
from tests.training.callback.one_of_two import take_part, two_steps
from tests.training.callback.trainers import counts_of, prepared


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each of two processes saw of each case, as far as they came."""
    folder = tmp_path_factory.mktemp("two")
    base = save_llama(folder / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [forked(take_part, rank, port, base, folder) for rank in (0, 1)]
    try:
        for worker in workers:
            worker.join(timeout=600)  # where it ends, the case that waits and those after it are not told
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return folder


def _seen_by_both(told: Path, case: str) -> list[dict[str, Any]]:
    files = [told / case / f"{rank}.json" for rank in (0, 1)]
    ends = [(told / f"{rank}.txt").read_text()[-2000:] for rank in (0, 1)]
    assert all(file.is_file() for file in files), f"{case}: a process waits or ended in an error: {ends}"
    return [json.loads(file.read_text()) for file in files]


def test_both_stop_at_the_step_at_which_the_first_finds_too_many(told: Path) -> None:
    first, second = _seen_by_both(told, "stop")
    assert first["processes"] == second["processes"] == 2
    assert first["step"] == second["step"] < 40
    assert first["stopped"]
    assert second["stopped"]
    assert first["intruders"] > 0
    assert second["intruders"] is None, "one process audits"


def test_an_audit_that_fails_on_the_first_ends_both(told: Path) -> None:
    first, second = _seen_by_both(told, "failure")
    assert first["error"] == "ResultFileError"
    assert second["text"] == f"the audit at step 2 failed on the first process: {first['text']}"


def test_without_a_stop_the_first_process_may_have_it_alone(told: Path) -> None:
    assert _seen_by_both(told, "alone") == [{"step": 4}, {"step": 4}]


@pytest.mark.parametrize("method", ["full", "lora", "dora"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_sharded_model_has_the_counts_of_a_whole_one(told: Path, version: int, method: str) -> None:
    first, second = (seen[f"FSDP {version}, {method}"] for seen in _seen_by_both(told, "sharded"))
    torch.manual_seed(0)  # as there: the factors of LoRA start at random
    model = prepared(told / "base", method)
    two_steps(model)
    expected = counts_of(told / "base", model)
    assert first["found"] == expected
    assert sum(expected.values()) > 0, "the case shows something"
    assert second["found"] is None, "one process audits"
    assert first["stops"]
    assert second["stops"]
    assert first["logged"] == [2, 3], "the second is that at the end of training"
    assert second["logged"] == []


def test_shards_whose_base_is_gone_are_refused_on_both(told: Path) -> None:
    first, second = _seen_by_both(told, "refused")
    assert first == second
    for case, seen in first.items():
        assert seen["error"] == "SettingError", case
        words = "pass base=" if case.endswith("full") else "start 'pissa' changed the weights beneath it"
        assert words in seen["text"], case


def test_the_last_state_below_a_limit_is_put_back_on_both(told: Path) -> None:
    first, second = _seen_by_both(told, "kept")
    assert first == second
    assert (first["put back"], first["step"]) == (2, 3)
    assert first["is the same"]
    assert first["moved"], "the case shows something"
