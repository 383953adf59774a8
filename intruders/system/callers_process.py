"""Work that neither depends on how the caller's process is set up nor leaves it otherwise."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from .random_state import random_state_kept

_IMPORTED_IN = os.getpid()


@contextmanager
def apart_from_caller() -> Iterator[None]:
    """Work with torch's defaults and with gradients, and give the caller's settings and random numbers back.

    Loading a model draws numbers for weights that are replaced later, and a training seeds all generators. A caller's
    own draws must not depend on it, and no result on whether the caller works in double precision or without gradients.
    """
    with random_state_kept(), usual_settings(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def usual_settings() -> Iterator[None]:
    """Make tensors without a type of their own in single precision within the block, whatever the caller's default.

    A forked process works in one thread: torch would wait forever for those of its parent (pytorch issue 17199).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with _one_thread() if _is_forked() else nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_forked() -> bool:
    """Whether this process may have been forked from one in which torch had started threads."""
    forked = getattr(multiprocessing.context, "ForkProcess", ())  # not on Windows
    return os.getpid() != _IMPORTED_IN or isinstance(multiprocessing.current_process(), forked)
