"""How often a batch waits for its device: each wait stalls a GPU, and their number must not grow with the matrices.

Counted without a GPU. A wait is what hands a number of a tensor to Python (``item``, ``bool``, ``float``, ``tolist``),
or makes a shape depend on numbers (``nonzero``, a mask as index, ``unique``).
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.inputs import llm_like, lora_update
from intruders.engine.decide import decide
from intruders.engine.known_base import KnownBase
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair

WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "equal"}
BY_INDEX = {"index", "index_put", "index_put_"}


class _Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__.split(".")[0]
        by_mask = name in BY_INDEX and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.count += name in WAITS or by_mask
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """``tolist`` reads a processor's memory without any operation."""

    count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += getattr(func, "__name__", "") in ("tolist", "numpy")
        return func(*args, **(kwargs or {}))


def waits(batch: Pair, known: KnownBase | None = None) -> tuple[int, set[str]]:
    """How often a decision waits, and its certificates."""
    with _Operations() as operations, _Lists() as lists:
        detection = decide(batch, 10, 0.5, known=known)
    return operations.count + lists.count, {name for row in detection.certificate for name in row}


def batch_of(shape: tuple[int, int], strength: float, seeds: Sequence[int]) -> Pair:
    factors = [lora_update(*shape, strength, 100 + seed, rank=8) for seed in seeds]
    left, right = (torch.stack(side) for side in zip(*factors, strict=True))
    return Pair(torch.stack([llm_like(*shape, seed) for seed in seeds]), LowRank(left, right))


@pytest.mark.parametrize("strength", [0.05, 1.0], ids=["without intruders", "with intruders"])
@pytest.mark.parametrize("shape", [(300, 300), (300, 400), (400, 300), (200, 200), (140, 140)])
def test_more_matrices_wait_no_more_often(shape: tuple[int, int], strength: float) -> None:
    """The same matrices four times, and each repeats the same rounds: whatever is more is for the matrices."""
    few, names = waits(batch_of(shape, strength, [0, 1, 2]))
    many, _ = waits(batch_of(shape, strength, [0, 1, 2] * 4))
    assert "exact" not in names  # those are decomposed one by one
    assert many == few
    # Rounds and looks, however many they need: a bound for any batch.
    assert 0 < few < 400


@pytest.mark.parametrize("strength", [0.05, 1.0], ids=["without intruders", "with intruders"])
def test_in_coordinates_too(strength: float) -> None:
    few, many = (batch_of((300, 300), strength, seeds) for seeds in ([0, 1], [0, 1] * 4))
    counts = [waits(batch, KnownBase.decomposed(batch.base)) for batch in (few, many)]
    assert counts[0] == counts[1]
    assert counts[0][1] == {"coordinates"}
    assert counts[0][0] < 40
