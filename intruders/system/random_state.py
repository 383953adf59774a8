"""The random generators of a process, left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept(*, on_all_devices: bool = True) -> Iterator[None]:
    """Give the generators of Python, numpy and torch their state back after the block.

    Args:
      on_all_devices: whether the generators of all CUDA devices are kept, or that of the current one alone. Asking for
        one takes memory on its device, and a process of a distributed training uses no other than its own.
    """
    devices: list[int] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = list(range(torch.cuda.device_count())) if on_all_devices else [torch.cuda.current_device()]
    in_python, in_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(in_python)
            np.random.set_state(in_numpy)
