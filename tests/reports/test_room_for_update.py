"""How large a random term may be before it is an intruder, by the base alone."""

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.errors import IntrudersError
from intruders.linalg import spiked_threshold
from intruders.reports.room_for_update import rooms_of
from intruders.system.progress import silent


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
