"""Random directions: the package's own numbers, the values by chance, and sketches, against random draws and sums."""

import torch

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from intruders.linalg.random_directions import SIZE, SketchDirections, normalized, own_generator


def test_streams_are_repeatable_and_apart_from_those_of_small_seeds() -> None:
    own = [torch.randn(4, 64, generator=own_generator(seed)) for seed in range(3)]
    assert all(torch.equal(torch.randn(4, 64, generator=own_generator(seed)), own[seed]) for seed in range(3))
    others = [torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(100)]
    batch = torch.stack([*own, *others]).flatten(1)
    cosines = torch.nn.functional.normalize(batch) @ torch.nn.functional.normalize(batch).mT
    assert float(cosines.fill_diagonal_(0.0).abs().max()) < 0.35


def test_factors_and_the_matrix_that_they_make_have_one_sketch() -> None:
    torch.manual_seed(0)
    factors = LowRank(torch.randn(3, 40, 2), torch.randn(3, 2, 70))
    directions = SketchDirections.of(40, 70, 1, factors.left)
    of_factors, of_matrices = directions.sketch(factors), directions.sketch(Dense(factors.dense()))
    torch.testing.assert_close(of_factors, of_matrices, rtol=1e-4, atol=1e-2)
    by_hand = torch.einsum("im,bmn,in->bi", directions.left, factors.dense(), directions.right)
    torch.testing.assert_close(of_factors, by_hand.double(), rtol=1e-4, atol=1e-2)


def test_cosines_of_models_are_within_what_is_said_of_their_error() -> None:
    """Thirty models of twelve matrices, between the first and every mixture of it with another."""
    generator = torch.Generator().manual_seed(0)

    def model() -> list[LowRank]:
        return [
            LowRank(torch.randn(1, 50, 4, generator=generator), torch.randn(1, 4, 60, generator=generator))
            for _ in range(12)
        ]

    first = model()
    mixtures = [
        [one.plus(other.scaled(share)) for one, other in zip(first, model(), strict=True)]
        for share in torch.linspace(0, 3, 30).tolist()
    ]
    directions = [SketchDirections.of(50, 60, seed, first[0].left) for seed in range(12)]

    def sketch(matrices: list[LowRank]) -> torch.Tensor:
        pairs = zip(directions, matrices, strict=True)
        return torch.stack([each.sketch(one)[0] for each, one in pairs]).sum(0)

    estimated = normalized([sketch(one) for one in [first, *mixtures]])
    whole = torch.stack([torch.cat([one.dense().flatten() for one in model]) for model in [first, *mixtures]])
    exact = torch.nn.functional.normalize(whole.double(), dim=-1)
    cosines, wanted = estimated[1:] @ estimated[0], exact[1:] @ exact[0]
    errors = (cosines - wanted).abs() / ((1 - wanted.square()) / SIZE**0.5).clamp_min(1e-6)
    assert errors.max() < 4
    assert errors.square().mean().sqrt() < 1.6


def test_a_model_without_updates_is_like_no_other() -> None:
    rows = normalized([torch.zeros(SIZE, dtype=torch.float64), torch.ones(SIZE, dtype=torch.float64)])
    assert (rows @ rows.mT).tolist() == [[0, 0], [0, torch.tensor(1.0, dtype=torch.float64)]]


def test_numbers_whose_products_single_precision_cannot_hold() -> None:
    """Factors of 1e25 have an update of 1e50."""
    generator = torch.Generator().manual_seed(2)
    small = LowRank(*(torch.randn(shape, generator=generator) for shape in ((40, 2), (2, 70))))
    large = LowRank(small.left * 1e25, small.right * 1e25)
    directions = SketchDirections.of(40, 70, 1, small.left)
    parts = (directions.left, small.dense(), directions.right)
    wanted = torch.einsum("im,mn,in->i", *(part.double() for part in parts))
    torch.testing.assert_close(directions.sketch(large) / 1e50, wanted, rtol=1e-3, atol=1e-3)
