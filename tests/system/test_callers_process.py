"""A process that a user forks has torch's settings, but none of its threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_FORKED = """
import multiprocessing, sys
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

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(*pool.map_async(count, [0, 1]).get(100))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX")
@pytest.mark.parametrize("imported", ["before", "after"])
def test_an_audit_in_a_forked_process_ends(imported: str) -> None:
    """Whether the parent had audited something before, or had used torch for something else."""
    told = subprocess.run(
        [sys.executable, "-c", _FORKED, imported], capture_output=True, text=True, timeout=200, check=False
    )
    assert told.stdout.split() == ["0", "1"], told.stderr
