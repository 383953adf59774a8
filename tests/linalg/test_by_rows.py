"""A tensor that is made some rows at a time is the same tensor."""

from __future__ import annotations

import pytest
import torch

from intruders.linalg.by_rows import made_by_rows


@pytest.mark.parametrize("shape", [(11, 7), (1, 40), (5,), (4, 3, 2), (0, 7), (3, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_what_was_given_rounded_once(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intruders.linalg.by_rows._AT_ONCE", 15)
    given = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = []

    def rows(some: slice) -> torch.Tensor:
        sizes.append(given[some].numel())
        return given[some]

    assert torch.equal(made_by_rows(rows, shape, dtype, torch.device("cpu")), given.to(dtype))
    assert max(sizes, default=0) <= max(15, given[:1].numel())
