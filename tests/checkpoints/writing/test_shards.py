"""What cannot be written, in every type that a checkpoint stores."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.writing.shards import require_finite
from intruders.errors import NonFiniteError

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_asked(dtype: torch.dtype) -> None:
    largest = torch.tensor([1.0, -torch.finfo(dtype).max]).to(dtype)
    assert require_finite(largest, "up.weight") is largest
    none = torch.tensor([1.0, float("nan")]).to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        NonFiniteError, match=rf"^'up.weight' contains NaN or infinity .* written in {name}, whose"
    ):
        require_finite(none, "up.weight")
