"""How matrices are read for an audit: what is refused, and what they are divided by."""

import pytest
import torch
from torch import Tensor

from intruders.audits.batches import Batch, of_one_model, read_batches
from intruders.checkpoints.pairing.pairing import PairedMatrix
from intruders.errors import NonFiniteError
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair


def read(base: Tensor, tuned: Tensor | LowRank) -> Batch:
    pair = PairedMatrix("w", (base.shape[0], base.shape[1]), None, lambda: Pair(base, tuned))
    (batch,) = read_batches(of_one_model([pair]), torch.device("cpu"))
    return batch


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_factor_that_is_not_finite_is_refused(side: str, value: float) -> None:
    update = {"left": torch.ones(4, 2), "right": torch.ones(2, 3)}
    update[side][1, 1] = value
    with pytest.raises(NonFiniteError, match="'w' contains NaN or infinity in the tuned model"):
        read(torch.ones(4, 3), LowRank(**update))


def test_the_size_of_factors_does_not_count_but_their_product_is_divided_too() -> None:
    base = torch.full((4, 3), 2.0**30)
    left, right = torch.full((4, 1), 2.0**50), torch.full((1, 3), 2.0**-40)
    batch = read(base, LowRank(left, right))
    assert batch.units == [2.0**31]
    product = batch.pair.update.dense()[0]
    torch.testing.assert_close(product * 2.0**31, left @ right, rtol=0, atol=0)
