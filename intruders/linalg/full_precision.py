"""Products in the precision that the proofs speak of, whatever the process has set, and the devices that have it.

torch computes single-precision products in TF32 or bfloat16 where a process allows it, on GPUs and, by oneDNN, on
processors with AMX; training scripts set that for speed, and an audit may run inside of one. docs/concepts/engine.md
has the argument for processors and for CUDA. Whether the libraries of a machine keep to it is looked at once per
process and device, for an environment variable can make them compute in less.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch

from .products import rounding, times_transpose


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


def _set_to_full() -> list[Callable[[], None]]:  # what puts everything back
    put_back: list[Callable[[], None]] = []
    of_backends: list[Any] = [
        backend
        for backend in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
        if hasattr(backend, "fp32_precision")  # torch 2.9 and later
    ]
    before = [backend.fp32_precision for backend in of_backends]
    try:
        by_old_name: str | None = torch.get_float32_matmul_precision()
    except RuntimeError:  # backends were set one by one, of which the one setting for all does not tell
        by_old_name = None
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


def _put_back(backend: Any, precision: str) -> None:
    # A backend that has no setting of its own shows the one of all backends, and shall follow that again.
    backend.fp32_precision = "none"
    if backend.fp32_precision != precision:
        backend.fp32_precision = precision


# Kinds of devices for which the argument is made.
_KINDS = ("cpu", "cuda")
# Matrices that are tried: long sums along rows and down columns, and a batch of small matrices.
_SHAPES = ((24, 8192), (8192, 24), (3, 64, 64))
_ROWS = 8


@cache
def is_covered(device: torch.device) -> bool:
    """Return whether bounds from single-precision products hold on a device."""
    return device.type in _KINDS and all(_rounds_little(shape, device) for shape in _SHAPES)


def _rounds_little(shape: tuple[int, ...], device: torch.device) -> bool:
    """Compare products with a matrix of random numbers and with its transpose with double precision."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    wide = matrix.double()
    gram = wide @ wide.mT if shape[-2] <= shape[-1] else wide.mT @ wide
    norm = torch.linalg.eigvalsh(gram)[..., -1].sqrt()
    for side in (matrix, matrix.mT):
        rows = torch.randn(*shape[:-2], _ROWS, side.shape[-1], generator=generator)
        exact = rows.double() @ side.double().mT
        with full_precision():
            product = times_transpose(rows.to(device), side.to(device)).cpu()
        wrong = torch.linalg.vector_norm(product.double() - exact, dim=-1)
        size = norm.unsqueeze(-1) * rows.double().norm(dim=-1)
        allowed = rounding(*shape[-2:]) * torch.finfo(torch.float32).eps * size
        if not bool((wrong <= allowed).all()):
            return False
    return True
