"""Pairs of both kinds against dense sums in double precision."""

import pytest
import torch
from torch import Tensor

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from intruders.linalg.pair import Pair, over_unit
from tests.matrices import random

SHAPE = (6, 5)


def pair_of(kind: str, seed: int = 0) -> tuple[Pair, Tensor]:
    """One pair, and its D in double precision."""
    m, n = SHAPE
    base, left, right = random(m, n, seed=seed), random(m, 2, seed=seed + 1), random(2, n, seed=seed + 2)
    if kind == "low-rank":
        return Pair(base, LowRank(left, right)), left.double() @ right.double()
    tuned = base + left @ right
    return Pair(base, tuned), tuned.double() - base.double()


@pytest.fixture(params=["dense", "low-rank"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_update_and_sum(kind: str) -> None:
    pair, update = pair_of(kind)
    tuned = pair.base.double() + update
    torch.testing.assert_close(pair.update.dense().double(), update, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pair.dense().double(), tuned, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pair.operator.dense().double(), tuned, rtol=1e-6, atol=1e-6)
    assert pair.double().update.norm() == pytest.approx(float(update.norm()), rel=1e-12)
    assert pair.rank == (2 if kind == "low-rank" else None)
    assert pair.parts[0] is pair.base
    assert len(pair.parts) == (3 if kind == "low-rank" else 2)


def test_a_dense_side_stays_what_it_is() -> None:
    base, tuned = torch.tensor([[1.0]]), torch.tensor([[1e-10]])
    pair = Pair(base, tuned)
    assert torch.equal(pair.dense(), tuned)
    assert torch.equal(pair.operator.dense(), tuned)
    assert not torch.equal(base + pair.update.dense(), tuned), "or it might as well be kept as an update"


def test_a_batch_is_its_pairs_one_by_one(kind: str) -> None:
    pairs = [pair_of(kind, seed)[0] for seed in (0, 10, 20)]
    batch = Pair.joined(pairs)
    assert batch.base.shape == (3, *SHAPE)
    assert batch.rank == pairs[0].rank
    some = batch.select(torch.tensor([2, 0]))
    for one, index in ((batch.select(1), 1), (some.select(0), 2), (some.select(1), 0)):
        assert all(torch.equal(*parts) for parts in zip(one.parts, pairs[index].parts, strict=True))
    alone = Pair.joined(pairs[:1])
    assert alone.base.data_ptr() == pairs[0].base.data_ptr(), "a large matrix is not copied"


def test_a_unit_as_small_as_weights_can_be_leaves_factors_in_range() -> None:
    unit = 2.0**-126
    divided = over_unit(LowRank(torch.full((6, 1), 8.0), torch.full((1, 5), 8.0)), unit)
    assert isinstance(divided, LowRank)
    assert bool(divided.left.isfinite().all() and divided.right.isfinite().all())
    torch.testing.assert_close(divided.double().dense(), torch.full(SHAPE, 64.0).double() / unit)


def test_precision(kind: str) -> None:
    pair, _ = pair_of(kind)
    cpu = torch.device("cpu")
    half = pair.to(cpu, torch.bfloat16)
    assert {part.dtype for part in half.parts} == {torch.bfloat16}
    assert {part.dtype for part in half.widened().parts} == {torch.float32}
    mixed = Pair(half.base.double(), half.tuned)
    assert {part.dtype for part in mixed.widened(cpu).parts} == {torch.float64}
    assert {part.dtype for part in half.double().parts} == {torch.float64}


def test_dense_updates_have_the_arithmetic_of_low_rank_ones() -> None:
    one, other = (pair_of("low-rank", seed)[0].double().update for seed in (0, 10))
    assert isinstance(one, LowRank)
    assert isinstance(other, LowRank)
    dense = Dense(one.dense())
    assert dense.norm() == pytest.approx(one.norm(), rel=1e-12)
    assert dense.inner(other) == pytest.approx(one.inner(other), rel=1e-9)
    torch.testing.assert_close(dense.plus(other).dense(), one.plus(other).dense())
    torch.testing.assert_close(dense.scaled(-2.5).dense(), one.scaled(-2.5).dense())
