"""Orthonormal rows by two Cholesky factorizations against Householder QR, on blocks that spoil the first pass."""

import pytest
import torch
from torch import Tensor

from intruders.linalg import orthonormal
from intruders.linalg.orthonormal import by_cholesky_twice, factorized, orthonormalize


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearly_parallel(angle: float, dtype: torch.dtype) -> Tensor:
    common = torch.randn(2, 1, 300, generator=generator(0), dtype=torch.float64)
    return (common + angle * torch.randn(2, 6, 300, generator=generator(1), dtype=torch.float64)).to(dtype)


def of_all_sizes(dtype: torch.dtype) -> Tensor:
    rows = torch.randn(2, 6, 300, generator=generator(2), dtype=torch.float64)
    return (rows * 10.0 ** -torch.arange(0, 18, 3.0, dtype=torch.float64).unsqueeze(-1)).to(dtype)


UGLY = {
    "single, 1e-2": nearly_parallel(1e-2, torch.float32),
    "single, 1e-4": nearly_parallel(1e-4, torch.float32),
    "single, 1e-6": nearly_parallel(1e-6, torch.float32),
    "double, 1e-5": nearly_parallel(1e-5, torch.float64),
    "sizes, single": of_all_sizes(torch.float32),
    "sizes, double": of_all_sizes(torch.float64),
    "a tall batch": torch.randn(20, 4, 192, generator=generator(3)),
}


def off_orthonormal(rows: Tensor) -> float:
    wide = rows.double()
    return float((wide @ wide.mT - torch.eye(rows.shape[-2], dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("kind", list(UGLY))
def test_cholesky_twice_is_as_exact_as_qr(kind: str) -> None:
    rows = UGLY[kind]
    basis, sizes, is_sure = by_cholesky_twice(rows)
    by_qr, sizes_of_qr = factorized(rows)
    assert bool(is_sure)
    eps = torch.finfo(rows.dtype).eps
    # Rows in double precision have no wider one to compute in: a few roundings more are allowed there.
    more = 0 if rows.dtype == torch.float32 else 8 * eps
    assert off_orthonormal(basis) <= max(off_orthonormal(by_qr), eps) + more
    # Both hold the rows: what a basis leaves of them is rounding of their own size, for each of the leading parts.
    left = rows.double() - (rows.double() @ basis.double().mT).tril() @ basis.double()
    assert (left.norm(dim=-1) <= (4 * eps + more) * rows.double().norm(dim=-1)).all()
    # A size is right to rounding of its row.
    apart = (sizes - sizes_of_qr).abs() / rows.norm(dim=-1)
    assert float(apart.max()) <= 16 * eps


@pytest.mark.parametrize("kind", ["equal", "zero", "to rounding", "double, 1e-12"])
def test_rows_that_depend_on_one_another_are_left_to_qr(kind: str) -> None:
    rows = torch.randn(3, 5, 100, generator=generator(4))
    if kind == "equal":
        rows[1, 3] = rows[1, 0]
    elif kind == "zero":
        rows[2, 1] = 0
    elif kind == "to rounding":
        rows = nearly_parallel(1e-9, torch.float64)[..., :100]
    else:
        rows = nearly_parallel(1e-12, torch.float64)
    assert not bool(by_cholesky_twice(rows)[2])


@pytest.mark.parametrize("kind", list(UGLY))
def test_a_basis_by_cholesky_is_one_of_the_same_space(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where Cholesky comes first: the same spaces, orthogonal to what is known."""
    rows = UGLY[kind]
    against = orthonormalize(torch.randn(len(rows), 7, rows.shape[-1], generator=generator(5)).to(rows.dtype))
    by_qr = orthonormalize(rows, against)

    def cholesky_first(block: Tensor) -> tuple[Tensor, Tensor]:
        basis, sizes, is_sure = by_cholesky_twice(block)
        return (basis, sizes) if bool(is_sure) else factorized(block)

    monkeypatch.setattr(orthonormal, "factorized", cholesky_first)
    basis = orthonormalize(rows, against)
    eps = torch.finfo(rows.dtype).eps
    assert off_orthonormal(basis) <= max(2 * off_orthonormal(by_qr), 8 * eps)
    assert float((basis @ against.mT).abs().max()) <= 8 * eps
    if "1e-6" not in kind:  # the last directions of these rows are rounding, and refilled at random
        cosines = torch.linalg.svdvals(basis.double() @ by_qr.double().mT)
        condition = torch.linalg.cond((rows / rows.norm(dim=-1, keepdim=True)).double()).max()
        assert float(1 - cosines.min()) <= (64 * eps * float(condition)) ** 2 + 8 * eps
