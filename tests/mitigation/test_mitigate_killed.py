"""kill -9 in the middle of mitigations that replace one another: the folder is always one of them, whole."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from intruders.mitigation.mitigate import mitigate
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama

SCALES = (0.25, 0.75)
KILLS = 32  # each of the waits once


@pytest.mark.slow
@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_kill_in_a_loop_never_leaves_a_wrong_output(tmp_path: Path, form: str) -> None:
    base, tuned = saved(tiny_llama(), tmp_path / "base"), saved(hot_llama(), tmp_path / "tuned")
    file = "adapter_model.safetensors" if form == "adapter" else "model.safetensors"
    wanted = {}
    for scale in SCALES:
        mitigate(base, tuned, scale=scale, form=form, out=tmp_path / f"{scale}")
        wanted[scale] = load_file(tmp_path / f"{scale}" / file)
    target = tmp_path / "work" / "out"
    target.parent.mkdir()
    seen = []
    for attempt in range(10 * KILLS):
        if attempt >= KILLS and set(seen) == set(SCALES):
            break
        child = os.fork()
        if child == 0:
            try:
                while True:
                    # Every second child begins with the other scale: a slow machine finishes only one in time.
                    for scale in SCALES[:: 1 if attempt % 2 else -1]:
                        mitigate(base, tuned, scale=scale, form=form, out=target, force=True)
            finally:
                os._exit(1)
        # The longest wait grows, because a busy machine may finish nothing within the first ones.
        time.sleep(0.02 + 0.011 * attempt % (0.35 * (1 + attempt // KILLS)))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if target.exists():
            record = json.loads((target / "intruders.json").read_text())
            scale = record["intervention"]["scale"]
            seen.append(scale)
            found = load_file(target / file)
            assert found.keys() == wanted[scale].keys()
            assert all(torch.equal(found[name], value) for name, value in wanted[scale].items())
    assert set(seen) == set(SCALES)
    mitigate(base, tuned, scale=0, form=form, out=target, force=True)
    assert [path.name for path in target.parent.iterdir()] == ["out"]
