"""The spiked threshold against theory where it is known, and against planted spikes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from intruders.linalg.operators import Dense
from intruders.linalg.ritz import Triplets
from intruders.linalg.spiked_threshold import Spectrum, sampled_spectra, spiked_threshold
from intruders.linalg.svd import dense_svd


def gaussian_values(m: int, n: int) -> Tensor:
    """Singular values of an m x n matrix of independent N(0, 1/n) entries, at the quantiles of their limit law.

    Marchenko and Pastur (1967): with c = m / n <= 1, squares have the density sqrt((b - x)(x - a)) / (2 pi c x).
    """
    c = m / n
    a, b = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    # x = a + (b - a) (1 - cos t) / 2 takes the square-root ends out of the integral.
    t = np.linspace(0, np.pi, 400_001)
    x = a + (b - a) * (1 - np.cos(t)) / 2
    density = ((b - a) / 2 * np.sin(t)) ** 2 / (2 * np.pi * c * np.maximum(x, 1e-12))
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))])
    places = (np.arange(m) + 0.5) / m
    return torch.from_numpy(np.sqrt(np.interp(places, cumulative / cumulative[-1], x))).flip(0)


@pytest.mark.parametrize(("m", "n"), [(2000, 2000), (1000, 4000), (2000, 2500)])
def test_transforms_at_the_edge_of_gaussian_matrices(m: int, n: int) -> None:
    """theta_c = (phi_L phi_R)^(-1/2) = c^(1/4) at 1 + sqrt(c) (Benaych-Georges and Nadakuditi 2012, section 3.1)."""
    spectrum = Spectrum.of_values(gaussian_values(m, n), (m, n), 4)
    edge = torch.tensor([(1 + math.sqrt(m / n)) * (1 + 1e-6)], dtype=torch.float64)
    product, _ = spectrum.fitting(edge, 0.5)
    assert float(product.rsqrt()) == pytest.approx((m / n) ** 0.25, rel=0.05)


@pytest.mark.parametrize(("m", "n"), [(600, 1200), (1200, 600)])
@pytest.mark.parametrize("theta", [1.5, 3.0])
def test_transforms_place_the_spike(m: int, n: int, theta: float) -> None:
    """Above the threshold the largest value goes to sqrt((1 + theta^2)(c + theta^2)) / theta (same section)."""
    c = m / n
    values = gaussian_values(min(m, n), max(m, n)) * (1 if m < n else math.sqrt(c))
    spectrum = Spectrum.of_values(values, (m, n), 4)
    z = torch.tensor([math.sqrt((1 + theta**2) * (c + theta**2)) / theta], dtype=torch.float64)
    product, _ = spectrum.fitting(z, 0.5)
    assert float(product.rsqrt()) == pytest.approx(theta, rel=0.01)


def planted(base: Tensor, k: int, epsilon: float, generator: torch.Generator) -> float:
    """The smallest theta, in steps of 6 %, at which a spike in random directions is an intruder."""
    x = torch.linalg.svd(base, full_matrices=False)[0]
    u, v = (torch.randn(side, generator=generator, dtype=base.dtype) for side in base.shape)
    direction = torch.outer(u / u.norm(), v / v.norm())
    size = float(torch.linalg.matrix_norm(base, 2))

    def is_intruder(step: int) -> bool:
        y = torch.linalg.svd(base + size * 1.06**step * direction, full_matrices=False)[0][:, :k]
        return bool(((x.mT @ y).abs().amax(0) < epsilon).any())

    # By fours, and then those between.
    coarse = next(step for step in range(-79, 40, 4) if is_intruder(step))
    return size * 1.06 ** next(step for step in range(coarse - 3, coarse + 1) if is_intruder(step))


def heavy_tailed(m: int, n: int, generator: torch.Generator) -> Tensor:
    """A few large singular values over a bulk, as in trained weights."""
    gaussian = torch.randn(m, n, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(gaussian, full_matrices=False)
    return (u * (s * (1 + 6 / (1 + torch.arange(len(s)))))) @ v


@pytest.mark.parametrize("shape", [(160, 160), (120, 240), (240, 120)])
@pytest.mark.parametrize("kind", ["gaussian", "heavy-tailed"])
@pytest.mark.parametrize("k", [1, 10])
def test_against_planted_spikes(shape: tuple[int, int], kind: str, k: int) -> None:
    generator = torch.Generator().manual_seed(sum(shape) + k)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "heavy-tailed":
        base = heavy_tailed(*shape, generator)
    spectrum = Spectrum.of_values(torch.linalg.svdvals(base), shape, 24)
    predicted = spiked_threshold(spectrum, k, 0.5)
    measured = sorted(planted(base, k, 0.5, generator) for _ in range(5))
    # The median; issue and literature speak of a factor of two.
    assert measured[2] / 1.6 < predicted < measured[2] * 1.6


@pytest.mark.parametrize("shape", [(300, 300), (200, 400), (400, 200)])
def test_sampled_spectrum_gives_the_threshold_of_the_whole_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.stack([heavy_tailed(*shape, generator) for _ in range(2)])
    svd = dense_svd(base)
    none = torch.zeros(2, 24, dtype=torch.float64)
    leading = Triplets(svd.values[:, :24], svd.left[:, :24], svd.right[:, :24], none, none)
    for i, sampled in enumerate(sampled_spectra(Dense(base), leading)):
        assert float(sampled.weights.sum()) == pytest.approx(shape[0] - 24)
        whole = Spectrum.of_values(svd.values[i], shape, 24)
        assert spiked_threshold(sampled, 10, 0.5) == pytest.approx(spiked_threshold(whole, 10, 0.5), rel=0.05)


def test_ends() -> None:
    assert spiked_threshold(Spectrum.of_values(torch.zeros(5), (5, 8), 5), 3, 0.5) == 0
    values = torch.linspace(2, 1, 12)
    spectrum = Spectrum.of_values(values, (12, 20), 12)
    loose, tight = (spiked_threshold(spectrum, 3, epsilon) for epsilon in (0.9, 0.4))
    assert 0 < loose < tight
    assert spiked_threshold(spectrum, 1, 0.5) >= spiked_threshold(spectrum, 10, 0.5)
    scaled = spiked_threshold(Spectrum.of_values(7 * values, (12, 20), 12), 3, 0.5)
    assert scaled == pytest.approx(7 * spiked_threshold(spectrum, 3, 0.5))


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)], ids=str)
def test_groups_of_nodes_stand_for_all_of_them(shape: tuple[int, int]) -> None:
    values = 1 / torch.arange(1, 201, dtype=torch.float64).sqrt()
    whole = Spectrum.of_values(values, shape, 24)
    grouped = whole.grouped(64)
    assert len(grouped.nodes) == 64
    assert float(grouped.weights.sum()) == shape[0] - 24
    assert float((grouped.weights * grouped.nodes).sum()) == pytest.approx(float(values[24:].square().sum()))
    assert spiked_threshold(grouped, 10, 0.5) == pytest.approx(spiked_threshold(whole, 10, 0.5), rel=1e-3)
    assert whole.grouped(1000) is whole
