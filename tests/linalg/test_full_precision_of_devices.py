"""Whether a device's products round as little as the proofs allow: asked of the device, not of its name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from intruders.linalg import full_precision, products
from intruders.linalg.full_precision import is_covered


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    full_precision.is_covered.cache_clear()
    yield
    full_precision.is_covered.cache_clear()


def to_bf16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def to_tf32(tensor: Tensor) -> Tensor:
    """Cut the last 13 bits, which TF32 leaves out."""
    return (tensor.contiguous().view(torch.int32) & -(2**13)).view(torch.float32)


def test_this_machine_is_covered() -> None:
    assert is_covered(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["mps", "xpu", "meta"])
def test_kinds_without_an_argument_are_not(kind: str) -> None:
    assert not is_covered(torch.device(kind))


@pytest.mark.parametrize("coarse", [to_bf16, to_tf32])
@pytest.mark.parametrize("product", ["_plain", "_linear"])
def test_a_library_that_computes_in_less_is_seen(
    product: str, coarse: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = getattr(products, product)
    if product == "_linear":
        if not products._has_linear():
            return
        monkeypatch.setattr(products, "_has_linear", lambda: True)
    monkeypatch.setattr(products, product, lambda rows, matrix: exact(coarse(rows), coarse(matrix)))
    assert not is_covered(torch.device("cpu"))


def test_what_the_process_has_set_does_not_count() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        assert is_covered(torch.device("cpu"))
    finally:
        torch.set_float32_matmul_precision("highest")
