"""The state of the random numbers of the caller's process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def callers_random_state() -> Iterator[None]:
    """Give Python's, NumPy's and torch's global random numbers back as they were, also after an exception.

    Loading a model draws numbers for weights that are replaced later, and a training seeds all three. A caller's own
    draws must not depend on it.
    """
    in_python, in_numpy, in_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(in_python)
        np.random.set_state(in_numpy)
        torch.set_rng_state(in_torch)
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
