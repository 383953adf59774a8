"""Memory that tensors leave is kept for the next ones."""

import json
import platform
import subprocess
import sys

import pytest

# Each case in a fork of one process, which has loaded torch once for them: what malloc is told dies with the fork.
_FAULTS = """
import json, os, resource
from intruders.system.this_process import keep_freed_memory
import torch
sizes = [10 * 2**20] * 2  # of 4 bytes each: too large for glibc to keep
for how in ("as it is", "kept", "tuned by somebody"):
    if os.fork():
        os.wait()
        continue
    if how == "tuned by somebody":
        os.environ["MALLOC_TOP_PAD_"] = "4096"
    if how != "as it is":
        keep_freed_memory()
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(size) for size in sizes]
        del blocks
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(json.dumps([how, faults]), flush=True)
    os._exit(0)
"""
_PAGES = 2 * 10 * 2**20 * 4 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a parameter of glibc")
def test_a_block_as_large_as_one_that_was_freed_is_not_cleared_again() -> None:
    command, environment = [sys.executable, "-c", _FAULTS], {"PATH": "/usr/bin:/bin"}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    faults = dict(map(json.loads, told.stdout.splitlines()))
    assert min(faults["as it is"][1:]) > 0.9 * _PAGES
    # The least of five steps: on a busy machine two and three of five took one of the two blocks from the system again,
    # for a reason that is not known, and in 67 other runs no step did. Without the setting all do.
    assert min(faults["kept"][1:]) < 0.01 * _PAGES
    # Somebody who tunes the allocator is left alone.
    assert min(faults["tuned by somebody"][1:]) > 0.9 * _PAGES
