"""What is done to a matrix, against W + change in double precision."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from intruders.linalg.pair import Pair
from intruders.mitigation.remedies.changes import Change
from intruders.mitigation.remedies.controls import EqualNorm
from intruders.mitigation.remedies.remedy import ScaledIntruders
from tests.checkpoints.models import saved, tiny_llama
from tests.matrices import random
from tests.mitigation.hot import hot_llama, matrices_of

BASE, LEFT, RIGHT = random(6, 5, seed=0), random(6, 2, seed=1), random(2, 5, seed=2)
D = LEFT.double() @ RIGHT.double()
PART = LowRank(random(6, 1, seed=3).double(), random(1, 5, seed=4).double())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (Change(added=PART), D + PART.left @ PART.right),
        (Change(share=0.3), 0.3 * D),
        (Change(0.3, PART), 0.3 * D + PART.left @ PART.right),
        (Change(share=0.0), 0.0 * D),
        (Change(), D),
    ],
    ids=["added", "shrunk", "both", "removed", "unchanged"],
)
def test_changed_weights_and_updates(change: Change, wanted: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intruders.linalg.products._AT_ONCE", 10)  # of 5 columns: two rows
    update = LowRank(LEFT, RIGHT)
    torch.testing.assert_close(change.updated(update).dense(), wanted)
    for tuned, known in ((update, update.double()), (BASE.double() + D, Dense(D))):
        pair = Pair(BASE, tuned)
        changed = change.applied_to(pair)
        torch.testing.assert_close(changed - BASE.double(), wanted)
        assert torch.equal(change.applied_to(pair, torch.bfloat16), changed.bfloat16())
        assert change.norm_of(known) == pytest.approx(float(wanted.norm()), rel=1e-6)


def test_weights_of_any_size_are_shrunk(tmp_path: Path) -> None:
    """Weights that an audit divides by a power of two come back in their own units, whatever form the update has."""
    model = tiny_llama()
    for parameter in model.parameters():
        parameter.data *= 2.0**-30
    base = saved(model, tmp_path / "base")
    sides = (str(base), str(saved(hot_llama(model=copy.deepcopy(model)), tmp_path / "tuned")))
    shrink, matrices = EqualNorm(ScaledIntruders(0.3)), matrices_of(*sides)
    pairs, cases = {pair.name: pair for pair in matrices.audited.pairing.pairs}, list(matrices.read([shrink]))
    assert cases
    for case in cases:
        loaded = pairs[case.matrix.name].load()
        assert isinstance(loaded.tuned, LowRank)
        base_weight, update = loaded.base.double(), loaded.tuned.left.double() @ loaded.tuned.right.double()
        changed, wanted = (
            remedy.change(case).applied_to(Pair(base_weight, base_weight + update)) - base_weight
            for remedy in (shrink, ScaledIntruders(0.3))
        )
        assert float(changed.norm()) == pytest.approx(float(wanted.norm()), rel=1e-6)
        torch.testing.assert_close(changed / changed.norm(), update / update.norm())
