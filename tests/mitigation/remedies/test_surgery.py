"""Surgery weighs singular values as its mode says, keeps their sum, and refuses what it cannot know."""

import math
from pathlib import Path

import pytest
import torch

from intruders.mitigation.remedies.surgery import Surgery
from tests.mitigation.remedies.conftest import RANK, Tuned

FELT = [0.4, -0.1, 0.9]  # of the three directions of every matrix


def surgery(tuned: Tuned, mode: str = "abs_select") -> Surgery:
    return Surgery(mode=mode, sensitivities=dict.fromkeys(tuned.matrices, FELT))


def by_hand(mode: str) -> list[float]:
    if mode == "abs_select":  # one of three each way
        return [1.0, 0.80, 1.25]
    if mode == "grad_direction":
        mean = (0.4 + 0.1 + 0.9) / 3
        return [math.exp(-2 * 0.4 / mean), math.exp(0.2 * 0.1 / mean), math.exp(-2 * 0.9 / mean)]
    width = 0.35 * (0.4 + 0.1 + 0.9) / 3
    return [0.80 + 0.45 / (1 + math.exp(-(size - 0.4) / width)) for size in (0.4, 0.1, 0.9)]


@pytest.mark.parametrize("mode", ["abs_select", "smooth_abs", "grad_direction"])
def test_singular_values_are_weighed_and_keep_their_sum(tmp_path: Path, by_adapter: Tuned, mode: str) -> None:
    found = by_adapter.after(surgery(by_adapter, mode), tmp_path / "out")
    for name in by_adapter.matrices:
        before, after = by_adapter.update(name), found[name] - by_adapter.base[name]
        if not name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-6)
            continue
        u, d, v = torch.linalg.svd(before, full_matrices=False)
        weighed = d[:RANK] * torch.tensor(by_hand(mode), dtype=d.dtype)
        weighed *= d[:RANK].sum() / weighed.sum()
        torch.testing.assert_close(after, (u[:, :RANK] * weighed) @ v[:RANK], rtol=1e-4, atol=2e-5)


def test_random_index_draws_by_seed(by_adapter: Tuned) -> None:
    felt = torch.tensor(FELT, dtype=torch.float64)
    drawn = [Surgery(mode="random_index", seed=seed).weights(felt, "w").tolist() for seed in range(12)]
    assert drawn[3] == Surgery(mode="random_index", seed=3).weights(felt, "w").tolist()
    assert all(sorted(weights) == [0.80, 1.0, 1.25] for weights in drawn)
    assert len({tuple(weights) for weights in drawn}) > 1
