"""The package's own random numbers: the same in every call, and those of no small seed."""

from __future__ import annotations

import torch

from intruders.linalg.own_random import own_generator


def test_streams_are_repeatable_and_apart_from_those_of_small_seeds() -> None:
    own = [torch.randn(4, 64, generator=own_generator(seed)) for seed in range(3)]
    assert all(torch.equal(torch.randn(4, 64, generator=own_generator(seed)), own[seed]) for seed in range(3))
    others = [torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(100)]
    batch = torch.stack([*own, *others]).flatten(1)
    cosines = torch.nn.functional.normalize(batch) @ torch.nn.functional.normalize(batch).mT
    assert float(cosines.fill_diagonal_(0.0).abs().max()) < 0.35
