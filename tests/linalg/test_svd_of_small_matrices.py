"""Where small decompositions run: on fake CUDA tensors, which have shapes and devices and no numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from intruders.linalg import svd
from intruders.linalg.svd import eigh, eigvalsh, moves_to_processor

CUDA = torch.device("cuda", 0)


class Devices(TorchDispatchMode):
    """Counts copies between devices, and where matrices are decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[str] = Counter()
        self.decomposed: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is torch.ops.aten._to_copy.default and given.get("device") is not None:
            self.copies[f"{args[0].device.type} to {given['device'].type}"] += 1
        if func is torch.ops.aten._linalg_eigh.default:
            self.decomposed[args[0].device.type] += 1
        return func(*args, **given)


@pytest.mark.parametrize(
    ("shape", "is_moved"),
    [
        ((8, 33, 33), True),
        ((2, 3, 100, 100), True),
        ((8, 32, 32), False),  # torch has a batched way
        ((1, 100, 100), False),
        ((100, 100), False),
        ((2, 4096, 4096), False),  # each fills a GPU
    ],
)
def test_batches_beyond_a_side_of_32_leave_a_gpu(shape: tuple[int, ...], is_moved: bool) -> None:
    assert moves_to_processor(torch.Size(shape), CUDA) == is_moved
    assert not moves_to_processor(torch.Size(shape), torch.device("cpu"))
    with FakeTensorMode(), Devices() as devices:
        values, vectors = eigh(torch.empty(shape, device=CUDA))
        alone = eigvalsh(torch.empty(shape, device=CUDA))
    assert values.device == vectors.device == alone.device == CUDA
    assert (values.shape, vectors.shape, alone.shape) == (shape[:-1], shape, shape[:-1])
    assert devices.decomposed == {"cpu" if is_moved else "cuda": 2}
    # One transfer of all cores, and one back for each result.
    assert devices.copies == ({"cuda to cpu": 2, "cpu to cuda": 3} if is_moved else {})


def test_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cores = rows @ rows.mT
    direct, alone = eigh(cores), eigvalsh(cores)
    monkeypatch.setattr(svd, "moves_to_processor", lambda shape, device: True)
    for mine, expected in zip((*eigh(cores), eigvalsh(cores)), (*direct, alone), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)
