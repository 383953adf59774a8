"""PEFT's code at work on a stranger's adapter: nothing of it is left in the process, and nothing large is begun."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import CheckpointError, IntrudersError, all_lines, missing_extra
from ...system.callers_process import random_state_kept

_LOCK = threading.RLock()  # the random state and the warnings are the process's


@contextmanager
def peft_at_work(module: str, source: str, most_numbers: int) -> Iterator[None]:
    """Let PEFT make layers and merge them; afterwards the process is as it was.

    Random state and filters of warnings are put back, so that reading an adapter moves no training's seed; nothing is
    compiled; tensors are made on the CPU. One that PEFT makes out of sizes alone has ``most_numbers`` at most. Whatever
    PEFT raises becomes a CheckpointError of one line.
    """
    # PEFT's layers draw numbers, and some types set a seed.
    with _LOCK, random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import_peft()
        try:
            with _no_compiler(), torch.no_grad(), torch.device("cpu"), _AllocatesAtMost(most_numbers):
                yield
        except IntrudersError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"PEFT cannot make the weight of '{module}' from '{source}': {all_lines(error)}; check that config "
                "and tensors are of one training, or merge it with PEFT and pass the merged model"
            ) from None


def _import_peft() -> None:
    """Import it without what bitsandbytes, which it imports where installed, has to say of a machine without a GPU."""
    chatty = logging.getLogger("bitsandbytes")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_extra("reading this adapter", "peft", "train") from None
    finally:
        chatty.setLevel(level)


@contextmanager
def _no_compiler() -> Iterator[None]:
    """BOFT's first layer starts a C++ and CUDA compiler, for an extension that a merge on the CPU has no use for."""
    import peft.tuners.boft.layer as boft

    known = getattr(boft, "_FBD_CUDA", None)
    if known is None:
        boft._FBD_CUDA = False
    try:
        yield
    finally:
        if known is None:
            boft._FBD_CUDA = None


class _AllocatesAtMost(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse a tensor that is made out of sizes alone (zeros, eye, randn, ...) before it is there, if it is too large.

    What is computed from tensors is as large as these allow; a size comes from a config, and can be anything.
    """

    def __init__(self, most_numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most_numbers = most_numbers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        numbers = _numbers_made(func, args, kwargs or {})
        if numbers > self._most_numbers:
            raise MemoryError(f"its settings ask for a tensor of {numbers:,} numbers")
        return func(*args, **(kwargs or {}))


def _numbers_made(func: Any, args: Any, kwargs: Any) -> int:
    """A bound on what an operation without a tensor among its arguments makes; 0 for any other."""
    if any(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values())):
        return 0
    shapes = [value for value in args if isinstance(value, list | tuple)]
    sizes = shapes[0] if shapes else [value for value in args if not isinstance(value, bool)]
    numbers = prod(max(abs(size), 1) for size in sizes if isinstance(size, int))
    return numbers**2 if str(func).startswith("aten.eye.") and len(sizes) == 1 else numbers
