"""Nats predicted from kept rows: against formulas by hand in double precision."""

import math

import pytest
import torch

from intruders.engine.nats import KeptRows, packed, packed_width, predict, unpacked
from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kept(sequences: int, labels: int, tokens: int, m: int, n: int) -> tuple[KeptRows, torch.Tensor]:
    """Return packed rows, and the gradient (sequences, labels, m, n) that they stand for, in double precision."""
    inputs, gradients = rows(sequences, tokens, n), rows(sequences, labels, tokens, m, seed=1)
    stored = KeptRows(packed(inputs), packed(gradients, 4))
    wide = unpacked(stored.inputs, n).double(), unpacked(stored.gradients, m).double()
    return stored, torch.einsum("slti,stj->slij", wide[1], wide[0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_packed_rows_are_within_half_a_step_of_every_block(n: int, bits: int) -> None:
    given = rows(3, 5, n) * 10.0 ** rows(3, 5, 1, seed=2)
    given[0, 0, 0] = 1e4  # an outlier spoils its own block alone
    given[0, 1] = 0.0
    stored = packed(given, bits)
    assert stored.shape == (3, 5, packed_width(n, bits))
    found = unpacked(stored, n)
    for first in range(0, n, 64):
        part = slice(first, first + 64)
        step = given[..., part].abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((found - given)[..., part].abs() <= 0.5001 * step).all()


def test_updates_together_have_the_responses_of_each_alone() -> None:
    """Of several ranks and of none, against inner products in double precision."""
    stored, gradient = kept(4, 3, 5, 70, 90)
    updates = [LowRank(rows(70, r, seed=r), rows(r, 90, seed=9 + r)) for r in (2, 1, 8)]
    updates.insert(1, Dense(rows(70, 90, seed=30)))
    for found, update in zip(stored.responses(updates), updates, strict=True):
        wanted = torch.einsum("slij,ij->sl", gradient, update.double().dense())
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_large_numbers_of_sequences_are_widened_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, _ = kept(5, 2, 3, 20, 30)
    update = Dense(rows(20, 30, seed=3))
    (at_once,) = stored.responses([update])
    monkeypatch.setattr("intruders.engine.nats._AT_ONCE", 1)
    assert torch.allclose(stored.responses([update])[0], at_once)


def test_the_estimate_is_half_the_mean_square_per_token() -> None:
    whole = torch.tensor([[2.0, 4.0], [-6.0, 0.0]]).double()
    (estimate, low, high), shares = predict({"a": whole}, 10, [0, 1])
    assert estimate == pytest.approx((4 + 16 + 36 + 0) / 4 / 2 / 10)
    assert shares == {"a": 1.0}
    assert 0 < low < 0.7 < high


def test_an_update_of_zeros_forgets_nothing() -> None:
    found, shares = predict({"a": torch.zeros(4, 3).double()}, 4, [0, 1, 2, 3])
    assert (found, shares) == ((0, 0, 0), {"a": 0.0})


def test_sequences_of_one_document_count_as_one() -> None:
    whole = rows(40, 3).double().repeat_interleave(5, 0)  # five times the same
    apart, _ = predict({"a": whole[::5]}, 4, list(range(40)))
    together, _ = predict({"a": whole}, 4, [at // 5 for at in range(200)])
    assert together == pytest.approx(apart)
    assert predict({"a": whole}, 4, list(range(200)))[0][1] > together[1]
    assert predict({"a": whole}, 4, [0] * 200)[0][2] == math.inf


def test_intervals_hold_as_often_as_they_say() -> None:
    random = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        whole = torch.randn(40, 2, generator=random, dtype=torch.float64)  # a mean of squares of 1
        (_, low, high), _ = predict({"a": whole}, 1, list(range(40)))
        held += low <= 0.5 <= high
    assert held >= 0.92 * 400
