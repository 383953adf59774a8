"""Products in the precision that the proofs speak of, whatever the process has set.

torch computes single-precision products in TF32 or bfloat16 where a process allows it: on GPUs and, by oneDNN, on
processors with AMX. Products of half precision may be summed in half precision, and autocast turns single precision
into half. Training scripts set these for speed, and an audit may run inside of one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute single-precision products in single precision inside the block, and restore the settings afterwards.

    The settings belong to the whole process: what other threads multiply meanwhile is exact too. Of several blocks, in
    one thread or many, the first sets them and the last puts them back. Autocast belongs to a thread, and is off in
    this one.

    >>> torch.set_float32_matmul_precision("medium")
    >>> with full_precision():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision("highest")
    """
    with ExitStack() as stay:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stay.enter_context(torch.autocast(device, enabled=False))
        _settings.hold()
        stay.callback(_settings.release)
        yield


class _ProcessSettings:
    """The settings of the process, and the number of blocks that hold them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._put_back: list[Callable[[], None]] = []

    def hold(self) -> None:
        with self._lock:
            if self._holders == 0:
                self._put_back = _set_to_full()
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                for put_back in self._put_back:
                    put_back()


_settings = _ProcessSettings()


def _set_to_full() -> list[Callable[[], None]]:
    """Set everything, and return what puts it back."""
    put_back: list[Callable[[], None]] = []
    of_backends: list[Any] = [
        backend
        for backend in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
        if hasattr(backend, "fp32_precision")  # torch 2.9 and later
    ]
    before = [backend.fp32_precision for backend in of_backends]
    by_old_name = _precision_by_old_name()
    if by_old_name is not None and by_old_name != "highest":
        torch.set_float32_matmul_precision("highest")
        put_back.append(partial(torch.set_float32_matmul_precision, by_old_name))
    for backend, precision in zip(of_backends, before, strict=True):
        backend.fp32_precision = "ieee"
        put_back.append(partial(_put_back, backend, precision))
    matmul: Any = torch.backends.cuda.matmul
    for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        allowed = getattr(matmul, name)
        # Newer versions have a second value beside the first, which is set with it.
        both = (
            (allowed, getattr(matmul, f"{name}_split_k")) if hasattr(matmul, f"{name}_split_k") else allowed
        )
        if allowed:
            setattr(matmul, name, False)
            put_back.append(partial(setattr, matmul, name, both))
    if getattr(matmul, "allow_fp16_accumulation", False):  # torch 2.7 and later
        matmul.allow_fp16_accumulation = False
        put_back.append(partial(setattr, matmul, "allow_fp16_accumulation", True))
    return put_back


def _precision_by_old_name() -> str | None:
    """The one setting for all backends; None where they were set one by one, of which it does not tell."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _put_back(backend: Any, precision: str) -> None:
    # A backend that has no setting of its own shows the one of all backends, and shall follow that again.
    backend.fp32_precision = "none"
    if backend.fp32_precision != precision:
        backend.fp32_precision = precision
