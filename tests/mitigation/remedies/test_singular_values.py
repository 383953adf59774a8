"""Singular values made equal, cut to the leading ones, or to those above noise, against dense decompositions."""

import math
from pathlib import Path

import pytest
import torch

from intruders.linalg.spiked_threshold import Spectrum, spiked_threshold
from intruders.mitigation.remedies.at_random import at_random
from intruders.mitigation.remedies.singular_values import (
    Budget,
    DGHard,
    Flatten,
    Truncate,
    median_of_noise,
    omega,
)
from tests.mitigation.hot import matrices_of
from tests.mitigation.remedies.conftest import RANK, Tuned


@pytest.mark.parametrize("norm", ["nuclear", "frobenius"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_singular_values_become_equal_at_the_same_norm(
    tmp_path: Path, by_adapter: Tuned, norm: str, factor: float
) -> None:
    found = by_adapter.after(Flatten(factor, norm), tmp_path / "out")
    for name in by_adapter.matrices:
        before = by_adapter.update(name)
        u, d, v = torch.linalg.svd(before, full_matrices=False)
        after = found[name] - by_adapter.base[name]
        kind = "nuc" if norm == "nuclear" else "fro"
        wanted = factor * float(torch.linalg.matrix_norm(before, kind))
        assert float(torch.linalg.matrix_norm(after, kind)) == pytest.approx(wanted, rel=1e-5)
        level = wanted / (RANK if norm == "nuclear" else RANK**0.5)
        torch.testing.assert_close(after, level * u[:, :RANK] @ v[:RANK], rtol=1e-4, atol=1e-5)
        assert d[0] > 1.05 * d[RANK - 1]  # it was not flat before


@pytest.mark.parametrize("energy", [0.6, 0.9])
def test_the_fewest_leading_directions_with_the_energy(tmp_path: Path, of_each: Tuned, energy: float) -> None:
    found = of_each.after(Truncate(energy), tmp_path / "out")
    ranks = set()
    for name in of_each.matrices:
        u, d, v = torch.linalg.svd(of_each.update(name), full_matrices=False)
        shares = d.square().cumsum(0) / d.square().sum()
        kept = next(count for count in range(1, len(d) + 1) if shares[count - 1] >= energy - 1e-6)
        wanted = of_each.base[name] + (u[:, :kept] * d[:kept]) @ v[:kept]
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)
        error = float((found[name] - of_each.tuned[name]).norm())
        assert error == pytest.approx(float(d[kept:].square().sum().sqrt()), rel=1e-3, abs=1e-5)
        ranks.add(kept)
    assert max(ranks) > 1


def test_updates_of_which_every_term_stays_are_not_changed(by_adapter: Tuned) -> None:
    """As the single term of rank-one updates does at any energy; a comparison then says that the remedy is idle."""
    nearly_all = Truncate(1 - 1e-9)
    cases = list(matrices_of(by_adapter.folder / "base", by_adapter.folder / "tuned").read([nearly_all]))
    assert len(cases) == len(by_adapter.matrices)
    assert all(nearly_all.change(case).keeps_all for case in cases)
    assert not any(Truncate(0.1).change(case).keeps_all for case in cases)


def test_constants_of_a_square_matrix() -> None:
    assert omega(1.0) == pytest.approx(4 / math.sqrt(3), rel=1e-12)
    assert median_of_noise(1.0) == pytest.approx(0.80795, abs=5e-6)  # of the quarter circle
    assert omega(1.0) / median_of_noise(1.0) == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_half_of_the_law_is_below_its_median(beta: float) -> None:
    """By a plain sum over the density of the singular values."""
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)
    step = (high - low) / 400_000
    x = low + step * (torch.arange(400_000, dtype=torch.float64) + 0.5)
    density = ((high**2 - x**2) * (x**2 - low**2)).sqrt() / (math.pi * beta * x)
    assert float(density.sum() * step) == pytest.approx(1, abs=1e-5)
    assert float(density[x < median_of_noise(beta)].sum() * step) == pytest.approx(0.5, abs=2e-5)


@pytest.mark.parametrize("shape", [(90, 150), (120, 120)])
def test_spikes_are_told_from_noise(shape: tuple[int, int]) -> None:
    m, n = shape
    generator = torch.Generator().manual_seed(3)

    def random(*sides: int) -> torch.Tensor:
        return torch.randn(*sides, dtype=torch.float64, generator=generator)

    sigma, rank = 1e-3, 4
    u, v = torch.linalg.qr(random(m, rank))[0], torch.linalg.qr(random(n, rank))[0]
    sizes = sigma * math.sqrt(n) * torch.tensor([40.0, 20, 10, 6], dtype=torch.float64)
    spikes = (u * sizes) @ v.mT
    names = {"layers.0.q_proj.weight": shape, "layers.0.k_proj.weight": (8, 8)}
    base = {name: random(*sides) for name, sides in names.items()}
    tuned = {name: weight + sigma * random(*weight.shape) for name, weight in base.items()}
    tuned["layers.0.q_proj.weight"] += spikes
    remedy = DGHard()
    cases = list(matrices_of(base, tuned).read([remedy]))
    changes = {case.matrix.name: remedy.change(case) for case in cases}
    assert changes["layers.0.k_proj.weight"].keeps_all  # below 1,024 entries
    added = changes["layers.0.q_proj.weight"].added
    assert added.rank == rank
    assert float((added.dense() - spikes).square().sum()) < 3 * n * rank * sigma**2
    # Its random control keeps as many singular terms of the update: each of its values is one of the update's.
    control = at_random(remedy, 1, cases)
    drawn = {case.matrix.name: control.change(case) for case in cases}["layers.0.q_proj.weight"].added
    update = tuned["layers.0.q_proj.weight"] - base["layers.0.q_proj.weight"]
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    inside = left.mT @ drawn.dense() @ right.mT
    kept = inside.diagonal() > 0.5 * values
    assert int(kept.sum()) == rank
    assert not kept[:rank].all()
    torch.testing.assert_close(inside, torch.diag(values * kept), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "kappa"), [("by_adapter", 0.5), ("by_adapter", 1.0), ("in_full", 1.0)])
def test_updates_are_scaled_to_their_thresholds(
    tmp_path: Path, kind: str, kappa: float, request: pytest.FixtureRequest
) -> None:
    tuned: Tuned = request.getfixturevalue(kind)
    found = tuned.after(Budget(kappa), tmp_path / "out")
    cut = 0
    for name in tuned.matrices:
        base, before = tuned.base[name], tuned.update(name)
        values = torch.linalg.svdvals(base)
        theta = spiked_threshold(Spectrum.of_values(values, (base.shape[0], base.shape[1]), 16), 10, 0.5)
        size = float(torch.linalg.matrix_norm(before, 2))
        after = found[name] - base
        assert float(torch.linalg.matrix_norm(after, 2)) <= kappa * theta * (1 + 1e-3) + 1e-6
        torch.testing.assert_close(after, min(1.0, kappa * theta / size) * before, rtol=1e-3, atol=1e-5)
        cut += kappa * theta < size
    assert cut > 0
