"""An audit that is given must be of the weights that are changed, whatever the remedy reads of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from intruders import audit
from intruders.errors import PairingError
from intruders.mitigation import tuned_matrices
from intruders.mitigation.remedies.shares import Interpolate
from tests.mitigation.hot import matrices_of

SIDE, LAYERS = 24, 12
NAMES = [f"layers.{layer}.up.weight" for layer in range(LAYERS)]


def weights(seed: int, strength: float = 0.0) -> dict[str, Tensor]:
    """Matrices (24, 24), with a rank-one update of the given norm in units of the base's largest singular value."""
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(SIDE, SIDE, generator=generator) for name in NAMES}
    directions = torch.Generator().manual_seed(100)
    for matrix in base.values():
        u, v = torch.randn(2, SIDE, generator=directions)
        size = strength * 2 * SIDE**0.5 / (u.norm() * v.norm())
        matrix += size * torch.outer(u, v)
    return base


def cases_of(base: dict[str, Tensor], tuned: dict[str, Tensor], audited: Any) -> list[Any]:
    return list(matrices_of(base, tuned, audited).read([Interpolate(alpha=0.5)]))


@pytest.fixture(scope="module")
def audited() -> Any:
    result = audit(weights(0), weights(0, 2.0), k=3, epsilon=0.6, cache=False)
    assert sum(matrix.intruders > 0 for matrix in result.matrices) == LAYERS
    return result


def test_another_update_is_refused(audited: Any) -> None:
    with pytest.raises(PairingError, match=r"is of other weights: 'layers.0.up.weight' differs"):
        cases_of(weights(0), weights(0, 1.9), audited)


def test_another_base_under_the_same_update_is_refused(audited: Any) -> None:
    other = {name: 1.5 * matrix for name, matrix in weights(0).items()}
    update = {name: weights(0, 2.0)[name] - weights(0)[name] for name in NAMES}
    tuned = {name: other[name] + update[name] for name in NAMES}
    with pytest.raises(PairingError, match="is of other weights"):
        cases_of(other, tuned, audited)


def test_few_intruders_are_computed_where_none_is_read(audited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find, computed = tuned_matrices.find_components, []

    def counted(pair: Any, *arguments: Any) -> Any:
        computed.append(pair)
        return find(pair, *arguments)

    monkeypatch.setattr(tuned_matrices, "find_components", counted)
    assert len(cases_of(weights(0), weights(0, 2.0), audited)) == LAYERS
    assert len(computed) == 8
