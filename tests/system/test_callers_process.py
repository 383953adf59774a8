"""A process that a user forks has torch's settings, but none of its threads; threads share the default type."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from intruders.system.callers_process import usual_settings

_FORKED = """
import multiprocessing, os, signal, sys
import torch
torch.set_num_threads(2)
big = torch.ones(700, 700)
big @ big  # starts the threads that a forked process does not have
import intruders
if sys.argv[1] == "before":
    import intruders.audits.audit

base = torch.diag(torch.arange(400.0, 0.0, -1.0))
tuned = [base + strength * torch.ones(400, 400) for strength in (0.01, 1.0)]

def count(index):
    found = intruders.audit({"up.weight": base}, {"up.weight": tuned[index]}, cache=False).intruders
    assert torch.get_num_threads() == 2
    return found

if sys.argv[2] == "bare":
    for index in (0, 1):
        child = os.fork()
        if not child:
            signal.alarm(90)
            print(count(index), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
else:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(*pool.map_async(count, [0, 1]).get(100))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX")
@pytest.mark.parametrize("fork", ["bare", "pool"])
@pytest.mark.parametrize("imported", ["before", "after"])
def test_an_audit_in_a_forked_process_ends(imported: str, fork: str) -> None:
    command = [sys.executable, "-c", _FORKED, imported, fork]
    told = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert told.stdout.split() == ["0", "1"], told.stderr


def test_blocks_of_several_threads_leave_the_callers_default_type() -> None:
    """The first to begin is the first to end, while the second still works."""
    has_begun, may_end = threading.Event(), threading.Event()
    within: list[torch.dtype] = []

    def second() -> None:
        with usual_settings():
            has_begun.set()
            may_end.wait(60)
            within.append(torch.tensor(1.0).dtype)

    thread = threading.Thread(target=second)
    torch.set_default_dtype(torch.float64)
    try:
        with usual_settings():
            thread.start()
            assert has_begun.wait(60)
        may_end.set()
        thread.join(60)
        assert within == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
