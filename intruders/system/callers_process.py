"""Work that neither depends on how the caller's process is set up nor leaves it otherwise."""

import multiprocessing
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .this_process import IMPORTING_PROCESS


@contextmanager
def random_state_kept(*, on_all_devices: bool = True) -> Iterator[None]:
    """Give the generators of Python, numpy and torch their state back after the block.

    ``on_all_devices`` are those of all CUDA devices kept, else that of the current one alone: asking for one takes
    memory on its device, and a process of a distributed training uses no other than its own.
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


@contextmanager
def apart_from_caller() -> Iterator[None]:
    """Work with torch's defaults and with gradients, and give the caller's settings and random numbers back.

    Loading a model draws numbers for weights that are replaced later, and a training seeds all generators. A caller's
    own draws must not depend on it, and no result on whether the caller works in double precision or without gradients.
    """
    with random_state_kept(), usual_settings(), torch.inference_mode(False), torch.enable_grad():
        yield


_lock = threading.Lock()
_before: list[torch.dtype] = []  # the default before each block that is at work; the first is the caller's


@contextmanager
def usual_settings() -> Iterator[None]:
    """Make tensors without a type of their own in single precision within the block, whatever the caller's default.

    The default belongs to the whole process. Of several blocks, in one thread or many, the first sets it and the last
    puts it back.

    A forked process works in one thread: torch would wait forever for those of its parent (pytorch issue 17199).
    """
    with _lock:
        _before.append(torch.get_default_dtype())
        if len(_before) == 1:
            torch.set_default_dtype(torch.float32)
    threads = torch.get_num_threads()
    is_fork = isinstance(multiprocessing.current_process(), multiprocessing.context.ForkProcess)
    is_forked = os.getpid() != IMPORTING_PROCESS or is_fork
    if is_forked:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if is_forked:
            torch.set_num_threads(threads)
        with _lock:
            default = _before.pop()
            if not _before:
                torch.set_default_dtype(default)
