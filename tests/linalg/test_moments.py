"""The moment certificate: its bound is never below the truth, over thousands of vectors.

The truth is known by construction, for every matrix is made from its singular vectors. A bound is on the
mass of one eigenvalue; what counts is its square root, a cosine, which the engine compares at a margin of 1e-4.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from intruders.linalg.moments import Bidiagonalization, largest_atom
from intruders.linalg.operators import Dense
from intruders.linalg.products import rounding
from tests.matrices import SPECTRA, Array, with_values

from .rounding import step_errors

MATRICES, VECTORS = 3, 8
SHAPES = [(36, 36), (60, 36), (36, 60)]
STARTS = ["gaussian", "mixes", "mixes with noise", "graded", "nearly a base vector", "outside the columns"]
STEPS = [1, 2, 4, 8, 13, 20, 40]


@dataclass(frozen=True)
class Cases:
    """A batch of matrices, unit vectors, and what lies along each singular vector, or in the space of equal values."""

    matrices: Tensor  # (MATRICES, m, n)
    left: Tensor  # (MATRICES, p, m): true left singular vectors
    right: Tensor  # (MATRICES, p, n)
    values: Tensor  # (MATRICES, p)
    vectors: Tensor  # (MATRICES, VECTORS, m)

    @property
    def masses(self) -> Tensor:
        """Rounding splits a cluster of equal values; a bound is on the mass of its whole space."""
        same = (self.values.unsqueeze(-1) - self.values.unsqueeze(-2)).abs() < 1e-9
        return (self.vectors.double() @ self.left.mT).square() @ same.double()


def orthonormal_rows(count: int, length: int, generator: torch.Generator) -> Tensor:
    gaussian = torch.randn(MATRICES, length, count, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0].mT


def weights(kind: str, p: int, generator: torch.Generator) -> Tensor:
    """Coefficients ``(MATRICES, VECTORS, p)`` over the left singular vectors."""
    shape = (MATRICES, VECTORS, p)
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
    random = torch.rand(shape, generator=generator, dtype=torch.float64)
    few = random.argsort(-1).argsort(-1) < torch.arange(1, VECTORS + 1).unsqueeze(-1)  # 1, 2, .. of them
    if kind == "mixes":
        return gaussian.sign() * few
    if kind == "mixes with noise":
        noise = 10.0 ** -torch.arange(VECTORS, dtype=torch.float64).unsqueeze(-1)
        return gaussian.sign() * few + noise * gaussian / p**0.5
    if kind == "graded":
        return gaussian.sign() * 10.0 ** (-12 * random)
    if kind == "nearly a base vector":
        one = random.argsort(-1).argsort(-1) == 0
        return one + 0.8 * gaussian / p**0.5
    return gaussian


def cases(spectrum: str, shape: tuple[int, int], kind: str, dtype: torch.dtype, seed: int = 0) -> Cases:
    m, n = shape
    p = min(shape)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    left, right = orthonormal_rows(p, m, generator), orthonormal_rows(p, n, generator)
    values = torch.from_numpy(np.stack([SPECTRA[spectrum](p, rng) for _ in range(MATRICES)]))
    vectors = weights(kind, p, generator) @ left
    if kind == "outside the columns":
        vectors = vectors + torch.randn(MATRICES, VECTORS, m, generator=generator, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    matrices = (left.mT * values.unsqueeze(-2)) @ right
    return Cases(matrices.to(dtype), left, right, values, vectors.to(dtype))


def bounds(made: Cases, steps: int, floor: Tensor | None = None) -> Tensor:
    process = Bidiagonalization.start(made.vectors).extended(Dense(made.matrices), steps, made.values[:, 0])
    return largest_atom(process, torch.zeros(MATRICES) if floor is None else floor, made.values[:, 0])


# Spectra whose values are far enough apart for each to have its own vector in single precision.
SEPARATE = ["power law", "flat", "exponential", "outliers over a bulk", "one giant", "close pairs"]
CLOSE = [name for name in SPECTRA if name not in SEPARATE]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, torch.float32) for shape in SHAPES), ((60, 36), torch.float64)],  # weights are single
    ids=str,
)
@pytest.mark.parametrize("kind", STARTS)
def test_no_base_vector_outweighs_the_bound(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """13 spectra x 3 matrices x 8 vectors in each of 24 cases, some 7,500 bounds; five spectra have equal values.

    Every spectrum has every start and shape, and by turns every number of steps.
    """
    turn = STARTS.index(kind) + 2 * SHAPES.index(shape)
    for seed, spectrum in enumerate(SEPARATE + CLOSE):
        made = cases(spectrum, shape, kind, dtype, seed)
        heaviest = made.masses.amax(-1).sqrt()
        steps = STEPS[(seed + turn) % len(STEPS)]
        bound = bounds(made, steps).sqrt()
        assert (bound >= heaviest - 1e-4).all(), (spectrum, steps, (heaviest - bound).max().item())


@pytest.mark.parametrize(("steps", "dtype"), [(3, torch.float32), (20, torch.float32), (20, torch.float64)])
@pytest.mark.parametrize("kind", STARTS)
def test_with_a_floor_under_the_eigenvalues_the_zero_atom_of_tall_matrices_does_not_count(
    kind: str, steps: int, dtype: torch.dtype
) -> None:
    for seed, spectrum in enumerate(SEPARATE):
        made = cases(spectrum, (60, 36), kind, dtype, seed)
        smallest = made.values[:, -1].square()
        heaviest = made.masses.amax(-1).sqrt()
        share = (1.0, 0.3)[(seed + STARTS.index(kind)) % 2]
        bound = bounds(made, steps, share * smallest).sqrt()
        assert (bound >= heaviest - 1e-4).all(), (spectrum, share, (heaviest - bound).max().item())


@pytest.mark.parametrize("steps", [20, 40, 56, 80])
def test_a_tail_far_below_the_norm(steps: int) -> None:
    """The base's 34 leading values are taken out; the rest lies within a hundredth of the norm, close together."""
    rng = np.random.default_rng(0)
    matrix = with_values(320, 320, (1.0 + np.arange(320)) ** -1.25, rng)
    x = np.linalg.svd(matrix)[0]
    starts = rng.standard_normal((8, 320))
    starts -= starts @ x[:, :34] @ x[:, :34].T
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    heaviest = np.abs(starts @ x[:, 34:]).max(1)
    operator, start = (torch.from_numpy(side).float().unsqueeze(0) for side in (matrix, starts))
    process = Bidiagonalization.start(start).extended(Dense(operator), steps, torch.ones(1))
    bound = largest_atom(process, torch.zeros(1), torch.ones(1))[0].sqrt().numpy()
    assert (bound >= heaviest - 1e-4).all(), (heaviest - bound).max()


def test_the_bound_is_sharp_where_the_space_is_exhausted() -> None:
    """An equal mix of c base vectors has c atoms of 1 / c, and c steps find that out."""
    made = cases("flat", (36, 36), "mixes", torch.float64)
    for count in range(1, VECTORS + 1):
        found = bounds(made, 12)[:, count - 1]
        assert (found >= 1 / count - 1e-9).all()
        # Proved for windows, by the least value of a polynomial at their ends: not sharp, but near.
        assert (found <= 1.35 / count).all()


def test_steps_taken_in_parts_are_steps_taken_at_once() -> None:
    made = cases("flat", (36, 60), "gaussian", torch.float64)
    norm = made.values[:, 0]
    once = Bidiagonalization.start(made.vectors).extended(Dense(made.matrices), 9, norm)
    parts = Bidiagonalization.start(made.vectors)
    for steps in (2, 3, 4):
        parts = parts.extended(Dense(made.matrices), steps, norm)
    zero = torch.zeros(MATRICES)
    torch.testing.assert_close(largest_atom(parts, zero, norm), largest_atom(once, zero, norm))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3)], ids=str)
def test_tiny_matrices(shape: tuple[int, int]) -> None:
    source = torch.Generator().manual_seed(0)
    m, n = shape
    matrix = torch.randn(6, m, n, generator=source, dtype=torch.float64)
    start = torch.nn.functional.normalize(torch.randn(6, 2, m, generator=source, dtype=torch.float64), dim=-1)
    x = torch.linalg.svd(matrix, full_matrices=False)[0]
    heaviest = (start @ x).square().amax(-1)
    norm = torch.linalg.matrix_norm(matrix, 2)
    process = Bidiagonalization.start(start).extended(Dense(matrix), 4, norm)
    assert (largest_atom(process, torch.zeros(6), norm) >= heaviest - 1e-9).all()
    zero = Bidiagonalization.start(start).extended(Dense(0 * matrix), 4, 0 * norm)
    assert (largest_atom(zero, torch.zeros(6), 0 * norm) == 1).all()


def test_values_near_zero_that_count_as_one_keep_their_mass() -> None:
    """Half of the mass lies at a value near zero, at the end of a chain of values that rounding does not tell apart.

    The first measure's merged node is near the chain's lower end, the second one's at the upper end, where it has its
    weight: bounds of the two for different places must not stand for one another.
    """
    chain = [1.15e-4, 1.12e-4, 1.04e-4, 8.9e-5, 6.4e-5, 5.8e-5, 4.8e-5, 4.7e-5, 3.8e-5, 3.3e-5, 5e-6]
    masses = [0.16, 0.011, 0.0023, 0.015, 0.0016, 0.0031, 1e-4, 0.017, 1e-4, 0.011, 0.5]
    values = torch.cat([torch.linspace(1, 0.1, 9), torch.tensor([5e-4, 3.6e-4, 2.6e-4, *chain])]).double()
    mass = torch.tensor([0.03] * 9 + [1e-7] * 3 + masses).double()
    mass /= mass.sum()
    exactly = torch.full((1,), 1e-9)
    process = Bidiagonalization.start(mass.sqrt()[None, None])
    process = process.extended(Dense(torch.diag(values)[None]), 19, exactly)
    single = Bidiagonalization(process.left.float(), process.right.float(), process.alphas, process.betas)
    assert float(largest_atom(single, torch.zeros(1), torch.ones(1))) >= float(mass.max())


@cache
def vectors_of(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Random left and right singular vectors, which all spectra of a shape have."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.standard_normal((side, min(shape))))[0] for side in shape)
    return left, right


@pytest.mark.parametrize("spectrum", ["power law", "outliers over a bulk", "flat", "one giant"])
@pytest.mark.parametrize("shape", [(64, 64), (400, 400), (2000, 100), (100, 2000), (53248, 32)], ids=str)
def test_steps_are_those_of_a_matrix_as_near_as_rounding_says(shape: tuple[int, int], spectrum: str) -> None:
    p, (left, right) = min(shape), vectors_of(shape)
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy((left * SPECTRA[spectrum](p, rng)) @ right.T).float()
    norm = float(torch.linalg.matrix_norm(matrix.double(), 2))
    errors = step_errors(matrix, norm, min(40, p - 10))
    allowed = rounding(*shape)
    assert max(errors.products) < allowed
    assert allowed / 25 < sum(errors.products) + sum(errors.bases) < 2 * allowed
