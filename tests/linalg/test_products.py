"""Thin products against double precision, in every layout that a caller may bring; and batches of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from intruders.linalg import products
from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from intruders.linalg.pair import Pair
from intruders.linalg.products import made_by_rows, rounding, selected, times_transpose


def layouts(m: int, n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "contiguous": torch.randn(m, n, generator=generator),
        "transposed": torch.randn(n, m, generator=generator).mT,
        "rows with gaps": torch.randn(m, n + 3, generator=generator)[:, :n],
        "every other row": torch.randn(2 * m, n, generator=generator)[::2],
        "batch of one": torch.randn(1, m, n, generator=generator),
        "batch": torch.randn(3, m, n, generator=generator),
        "batch, transposed": torch.randn(3, n, m, generator=generator).mT,
        "the same matrix twice": torch.randn(m, n, generator=generator).expand(2, m, n),
    }


@pytest.mark.parametrize("shape", [(5, 7), (512, 640), (640, 512), (1, 200_000)])
@pytest.mark.parametrize("layout", list(layouts(1, 1)))
def test_products_have_the_rounding_of_single_precision(layout: str, shape: tuple[int, int]) -> None:
    matrix = layouts(*shape)[layout]
    rows = torch.randn(*matrix.shape[:-2], 4, shape[1], generator=torch.Generator().manual_seed(1))
    exact = rows.double() @ matrix.double().mT
    reach = rows.double().norm(dim=-1, keepdim=True) * matrix.double().norm(dim=-1).unsqueeze(-2)
    assert ((times_transpose(rows, matrix) - exact).abs() <= 2e-6 * reach).all()


def test_rows_that_are_a_part_of_a_larger_block() -> None:
    matrix = torch.randn(2, 512, 640)
    block = torch.randn(2, 9, 640)
    for rows in (block[:, -4:], block[:, ::2], block[..., -4:, :].flip(-2), block[:, :1]):
        expected = rows.double() @ matrix.double().mT
        torch.testing.assert_close(times_transpose(rows, matrix).double(), expected, rtol=1e-4, atol=1e-4)


def missing(rows: Tensor, matrix: Tensor) -> Tensor:
    raise AttributeError("no such operator")


def coarse(rows: Tensor, matrix: Tensor) -> Tensor:
    return (rows.bfloat16() @ matrix.bfloat16().mT).float()


@pytest.mark.parametrize("operator", [missing, coarse])
def test_an_operator_that_is_not_there_or_rounds_more_is_not_used(
    operator: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, rows = torch.randn(512, 640), torch.randn(3, 640)
    products._has_linear.cache_clear()
    monkeypatch.setattr(products, "_linear", operator)
    try:
        torch.testing.assert_close(times_transpose(rows, matrix), rows @ matrix.mT, rtol=0, atol=0)
    finally:
        products._has_linear.cache_clear()


@pytest.mark.parametrize("shape", [(2000, 100), (40_000, 160), (8192, 512), (512, 8192)])
def test_long_sums_are_as_exact_as_bounds_take_them_to_be(shape: tuple[int, int]) -> None:
    """Of entries that mostly agree in sign, on either side, through every way that a product goes.

    Builds of torch differ in how they add: PyPI's 2.15 was off by up to five times this where sums were not cut.
    """
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) + 0.5
    norm = float(torch.linalg.matrix_norm(matrix.double(), 2))
    allowed = rounding(*shape) * torch.finfo(torch.float32).eps * norm
    low_rank = LowRank(matrix, torch.eye(shape[1]))
    for side, times in ((0, "apply_transpose"), (1, "apply")):
        rows = torch.nn.functional.normalize(torch.rand(3, shape[side], generator=generator), dim=-1)
        exact = rows.double() @ (matrix.double() if side == 0 else matrix.double().mT)
        for operator in (Dense(matrix), Dense(matrix[None]), low_rank):
            given = rows[None] if operator.shape[:-2] else rows
            errors = (getattr(operator, times)(given).double() - exact).norm(dim=-1)
            assert errors.max() <= allowed, (times, operator.shape)


def test_a_matrix_that_a_stack_shares_is_never_copied() -> None:
    """Not when some of the batch are chosen, and not in a pair or an operator of it."""
    shared = torch.randn(512, 640).expand(5, -1, -1)
    chosen = torch.tensor([3, 1])
    update = LowRank(torch.randn(5, 512, 2), torch.randn(5, 2, 640))
    for part in (
        selected(shared, chosen),
        Dense(shared).select(chosen).dense(),
        Pair(shared, update).select(chosen).base,
    ):
        assert part.data_ptr() == shared.data_ptr()
        assert part.shape == (2, 512, 640)
    one = selected(torch.randn(3, 4, 5), chosen % 3)
    assert one.shape == (2, 4, 5)


@pytest.mark.parametrize("shape", [(11, 7), (1, 40), (5,), (4, 3, 2), (0, 7), (3, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_what_was_given_rounded_once(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intruders.linalg.products._AT_ONCE", 15)
    given = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = []

    def rows(some: slice) -> torch.Tensor:
        sizes.append(given[some].numel())
        return given[some]

    assert torch.equal(made_by_rows(rows, shape, dtype, torch.device("cpu")), given.to(dtype))
    assert max(sizes, default=0) <= max(15, given[:1].numel())


def test_a_batch_of_one_matrix_is_repeated_with_what_is_nested_in_it_and_not_copied() -> None:
    single = Pair(torch.randn(1, 2, 3), LowRank(torch.randn(1, 2, 1), torch.randn(1, 1, 3)))
    for part, own in zip(single.repeated(4).parts, single.parts, strict=True):
        assert torch.equal(part, own.expand(4, -1, -1))
        assert part.data_ptr() == own.data_ptr()
