"""Bounds on the scale of a merged update, against brute force in double precision and exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from intruders.checkpoints.merges.merged_matrix import MergedMatrix, Rounding
from intruders.checkpoints.merges.verdict import (
    APPLIED,
    NOT_APPLIED,
    NOT_PROVED,
    TOO_SMALL,
    ScaleBounds,
    estimate_scale,
    judge,
    scale_bounds,
    scale_by_least_squares,
)
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair

TYPES = [torch.bfloat16, torch.float16, torch.float32]
STRICT = Rounding("one rounding")


def example(
    dtype: torch.dtype, rows: int = 12, columns: int = 9, size: float = 0.05, seed: int = 0
) -> tuple[Tensor, LowRank]:
    """W0 of ``dtype``, and an update of rank 3 of about ``size`` times its numbers."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, columns, generator=generator).to(dtype)
    left = size * torch.randn(rows, 3, generator=generator)
    return base, LowRank(left, torch.randn(3, columns, generator=generator))


def merged(base: Tensor, update: LowRank, scale: float = 1.0) -> Tensor:
    """The sum in double precision, rounded once."""
    return (base.double() + scale * update.double().dense()).to(base.dtype)


def next_up(tensor: Tensor) -> Tensor:
    return torch.nextafter(tensor, torch.full_like(tensor, math.inf))


def brute_force(base: Tensor, update: LowRank, found: Tensor) -> tuple[Fraction, Fraction]:
    """The scales for which every number of M is the nearest to W0 + s D, in rational arithmetic."""
    low, high = Fraction(-(10**9)), Fraction(10**9)
    exact = update.double()
    for i in range(base.shape[0]):
        for j in range(base.shape[1]):
            d = sum(
                Fraction(a) * Fraction(b)
                for a, b in zip(exact.left[i].tolist(), exact.right[:, j].tolist(), strict=True)
            )
            number = found[i, j]
            half = Fraction(float(next_up(number.abs())) - float(number.abs())) / 2
            difference = Fraction(float(number)) - Fraction(float(base[i, j]))
            ends = sorted([(difference - half) / d, (difference + half) / d])
            low, high = max(low, ends[0]), min(high, ends[1])
    return low, high


@pytest.mark.parametrize("scale", [1.0, 1.001, 2.0, -1.0, 0.0, 0.3])
@pytest.mark.parametrize("dtype", TYPES)
def test_bounds_are_those_of_brute_force(dtype: torch.dtype, scale: float) -> None:
    base, update = example(dtype)
    after = merged(base, update, scale)
    found = scale_bounds(MergedMatrix(Pair(base, update), after, dtype), STRICT)
    low, high = brute_force(base, update, after)
    assert low <= scale <= high
    # What single precision may have added to the product and to the sum makes them a little wider, and never narrower.
    assert found.low <= low
    assert high <= found.high
    width = float(high - low)
    assert found.high - found.low <= width + (1e-3 * width if dtype != torch.float32 else 0) + 1e-4


@pytest.mark.parametrize("scale", [1.0, 1.001])
def test_in_double_precision_too(scale: float) -> None:
    base, update = example(torch.float64)
    matrix = MergedMatrix(Pair(base, update), merged(base, update, scale), torch.float64)
    bounds = scale_bounds(matrix, STRICT)
    assert bounds.holds(scale)
    assert bounds.high - bounds.low < 1e-4


def test_numbers_that_the_update_leaves_alone_must_stay() -> None:
    base, update = example(torch.float32)
    update.left[4] = 0
    after = merged(base, update)
    assert scale_bounds(MergedMatrix(Pair(base, update), after, torch.float32), STRICT).holds(1)
    after[4, 2] += 1e-3
    found = scale_bounds(MergedMatrix(Pair(base, update), after, torch.float32), STRICT)
    assert found.is_empty()
    assert found.outside == 1


def test_stopping_early_gives_the_same_bounds_or_none() -> None:
    """The last number decides, in another block of rows than the first."""
    base, update = torch.zeros(3000, 60), LowRank(torch.ones(3000, 1), torch.ones(1, 60))
    for last in (1.0, 1.5):
        after = torch.ones(3000, 60)
        after[-1, -1] = last
        matrix = MergedMatrix(Pair(base, update), after, torch.float32)
        whole = scale_bounds(matrix, STRICT)
        early = scale_bounds(matrix, STRICT, stop_when=ScaleBounds.is_empty)
        assert whole.is_empty() == early.is_empty() == (last != 1.0)
        assert whole.outside == (0 if last == 1.0 else 1)


@pytest.mark.parametrize("base_type", TYPES)
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision_that_are_scaled_in_it(
    dtype: torch.dtype, scale: float, base_type: torch.dtype
) -> None:
    """As PEFT merges adapters in half precision on a GPU."""
    base, update = example(base_type, 300, 200)
    left, right = update.left.to(dtype), update.right.to(dtype)
    product = ((left.float() @ right.float()).to(dtype) * scale).float()
    after = (base.float() + product).to(base_type)
    factors = LowRank(scale * left.float(), right.float())
    found = judge(MergedMatrix(Pair(base, factors), after, base_type), scale)
    assert found.verdict == APPLIED
    off = (base.float() + 1.05 * product).to(base_type)
    assert judge(MergedMatrix(Pair(base, factors), off, base_type), scale).verdict != APPLIED


def test_least_squares_are_numpys_with_the_error_of_white() -> None:
    base, update = example(torch.float32, 80, 70)
    generator = torch.Generator().manual_seed(5)
    noise = 0.05 * torch.randn(80, 70, generator=generator) * base.abs()
    after = base + 0.7 * update.dense() + noise
    found = scale_by_least_squares(MergedMatrix(Pair(base, update), after, torch.float32), None)
    d = (update.left.double() @ update.right.double()).flatten().numpy()
    y = (after.double() - base.double()).flatten().numpy()
    scale = float(d @ y / (d @ d))
    rest = y - scale * d
    assert found.scale == pytest.approx(scale, rel=1e-5)
    assert found.error == pytest.approx(math.sqrt(float((d * d) @ (rest * rest))) / float(d @ d), rel=1e-4)
    size = float(base.double().norm())
    assert found.rest == pytest.approx(math.sqrt(float(rest @ rest)) / size, rel=1e-4)
    assert found.is_near(0.7)


@pytest.mark.parametrize("size", [0.01, 0.001, 0.0003])
def test_updates_that_half_precision_swallows_in_part_are_seen_whole(size: float) -> None:
    """A sum in bfloat16, then quantized: least squares on D itself would find less than it."""
    base, update = example(torch.bfloat16, 400, 300, size=size)
    after = merged(base, update).float()
    after = after + 0.002 * torch.randn(after.shape, generator=torch.Generator().manual_seed(3))
    matrix = MergedMatrix(Pair(base, update), after, None)
    found = estimate_scale(matrix)
    assert found.is_near(1)
    assert found.is_seen
    if size < 0.001:
        assert scale_by_least_squares(matrix, None).scale < 0.9


def test_the_error_is_the_spread_over_many_rests() -> None:
    base, update = example(torch.float32, 40, 30)
    scales, errors = [], []
    for seed in range(200):
        noise = torch.randn(40, 30, generator=torch.Generator().manual_seed(seed)) * base.abs()
        found = estimate_scale(MergedMatrix(Pair(base, update), base + update.dense() + noise, None))
        scales.append(found.scale)
        errors.append(found.error)
    spread = float(torch.tensor(scales).std())
    assert 0.8 < spread / (sum(errors) / len(errors)) < 1.25


matrices = st.builds(
    example,
    st.sampled_from(TYPES),
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(1e-5, 2.0),
    st.integers(0, 2**31),
)


@given(matrices, st.floats(-4, 4), st.sampled_from([None, torch.bfloat16, torch.float16]))
def test_bounds_always_hold_the_true_scale(
    matrix: tuple[Tensor, LowRank], scale: float, half: torch.dtype | None
) -> None:
    """Also of an update that was rounded before it was added."""
    base, update = matrix
    product = scale * (update.left @ update.right)  # in single precision, as a merge has it
    sums = [merged(base, update, scale)] if half is None else []
    product = product if half is None else product.to(half).float()
    for after in [*sums, (base.float() + product).to(base.dtype)]:
        way = STRICT if half is None else Rounding("", (half,))
        bounds = scale_bounds(MergedMatrix(Pair(base, update), after, base.dtype), way)
        assert bounds.holds(scale), bounds


def explained(base: Tensor, update: LowRank, after: Tensor) -> bool:
    """Whether M is within one and a half roundings of W0 + D everywhere, those of single precision among them."""
    exact = base.double() + update.double().dense()
    size = next_up(after.abs()).double() - after.abs().double()
    norms = update.left.double().norm(dim=1)[:, None] * update.right.double().norm(dim=0)
    slack = 2.0**-18 * (after.double().abs() + base.double().abs() + norms)
    return bool(((after.double() - exact).abs() <= 0.5 * size * 1.01 + slack).all())


@given(matrices, st.sampled_from([0.0, 2.0, -1.0, 1.001, 0.5, 16.0]))
def test_another_scale_is_applied_only_where_it_rounds_to_the_same(
    matrix: tuple[Tensor, LowRank], scale: float
) -> None:
    base, update = matrix
    after = merged(base, update, scale)
    found = judge(MergedMatrix(Pair(base, update), after, base.dtype))
    if found.verdict == APPLIED:
        assert explained(base, update, after), found


@given(matrices, st.integers(0, 2**31))
def test_another_update_is_applied_only_where_it_rounds_to_the_same(
    matrix: tuple[Tensor, LowRank], seed: int
) -> None:
    base, update = matrix
    generator = torch.Generator().manual_seed(seed)
    other = LowRank(update.left, torch.randn(update.right.shape, generator=generator))
    after = merged(base, other)
    found = judge(MergedMatrix(Pair(base, update), after, base.dtype))
    if found.verdict == APPLIED:
        assert explained(base, update, after), found


@given(matrices)
def test_a_good_merge_is_applied_or_too_small(matrix: tuple[Tensor, LowRank]) -> None:
    base, update = matrix
    found = judge(MergedMatrix(Pair(base, update), merged(base, update), base.dtype))
    assert found.verdict in (APPLIED, TOO_SMALL), found


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-5, 1e-4, 1e-3, 1e-2])
def test_a_right_merge_whose_update_is_as_small_as_its_rounding_is_never_called_wrong(
    half: torch.dtype, size: float
) -> None:
    """As PEFT makes it of a base in single precision that was loaded in half precision."""
    for seed in range(8):
        base, update = example(torch.float32, 32, 48, size=size, seed=seed)
        for rounded in (update.dense(), update.dense().to(half)):
            after = (base.to(half).float() + rounded.float()).to(half)
            verdict = judge(MergedMatrix(Pair(base, update), after, half), scaling=4.0)
            assert verdict.verdict in (APPLIED, TOO_SMALL, NOT_PROVED), verdict


def test_an_update_that_rounding_the_base_swallowed_is_too_small_to_tell() -> None:
    """One rounding of W0 + D differs from the base rounded; that rounded first and then added to does not."""
    base, update = example(torch.float32, size=1e-6)
    rounded = base.bfloat16()
    assert torch.equal((rounded.float() + update.dense()).bfloat16(), rounded)
    matrix = MergedMatrix(Pair(base, update), rounded, torch.bfloat16)
    assert not scale_bounds(matrix, STRICT).holds(1)
    verdict = judge(matrix)
    assert verdict.verdict == TOO_SMALL
    assert verdict.precision == "one rounding, base rounded to bfloat16"
    larger = LowRank(update.left * 1000, update.right)
    assert judge(MergedMatrix(Pair(base, larger), rounded, torch.bfloat16)).verdict == NOT_APPLIED
