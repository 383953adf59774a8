"""How large a random term may be before it is an intruder, by the base alone."""

from pathlib import Path

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.errors import IntrudersError
from intruders.linalg import spiked_threshold
from intruders.reports.room_for_update import room_lines, rooms_of
from intruders.system.progress import silent


def test_every_kind_of_module_has_a_line(llama: Path) -> None:
    _, *kinds, _ = room_lines(llama, 4, 0.5, silent)
    assert {line.split(":")[0].removeprefix("  - ") for line in kinds} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_the_room_of_a_base_is_where_random_terms_become_intruders() -> None:
    """Far below it a random rank-one term is none, well above it is one: dense decompositions of 20 draws each."""
    generator = torch.Generator().manual_seed(0)
    w0 = torch.randn(60, 90, generator=generator) @ torch.diag(torch.linspace(1, 0.1, 90))
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": w0})
    (room,) = rooms_of(checkpoint, 3, 0.5, silent)
    left = torch.linalg.svd(w0)[0]
    shares = []
    for factor in (0.5, 2.0):
        found = 0
        for _ in range(20):
            u, v = torch.randn(60, generator=generator), torch.randn(90, generator=generator)
            term = factor * room.threshold * torch.outer(u / u.norm(), v / v.norm())
            tuned = torch.linalg.svd(w0 + term)[0][:, :3]
            found += bool(((left.T @ tuned).abs().amax(0) < 0.5).any())
        shares.append(found / 20)
    assert shares[0] < 0.2
    assert shares[1] > 0.8


def test_large_bases_are_sampled_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    w0 = torch.randn(200, 300, generator=generator) @ torch.diag(torch.linspace(2, 0.1, 300))
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": w0})

    def threshold() -> float:
        return rooms_of(checkpoint, 10, 0.5, silent)[0].threshold

    dense = threshold()
    monkeypatch.setattr(spiked_threshold, "_DENSE_SIDE", 100)
    assert threshold() == pytest.approx(dense, rel=0.1)


def test_a_base_with_nan_is_refused() -> None:
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": torch.full((8, 8), torch.nan)})
    with pytest.raises(IntrudersError, match=r"'layers.0.q_proj.weight' .* contains NaN or infinity"):
        rooms_of(checkpoint, 2, 0.5, silent)
