"""Critical scales against dense decompositions at many scales."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.scales import critical_scales as searching
from intruders.audits.scales.critical_scales import SLACK, WALK, critical_scales
from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.errors import SettingError
from intruders.reports.scale import scale_lines
from tests.audits.scales.wrong_scales import search
from tests.checkpoints.models import merged_weights, tiny_llama
from tests.matrices import leading_left
from tests.mitigation.hot import hot_llama, left_vectors, places_of_intruders, wide_spectrum

STEP = 1.02


def large_llama() -> nn.Module:
    """Matrices for which the audit takes the Krylov method."""
    return wide_spectrum(
        tiny_llama(hidden_size=288, intermediate_size=320, num_key_value_heads=4, num_hidden_layers=1)
    )


def first_intruder(
    base: Tensor, change: Tensor, around: float, k: int = 10, step: float = STEP, begin: float = 0.2
) -> float:
    """The smallest scale with an intruder, in steps of 2 % unless told otherwise, from a fifth of ``around`` on."""
    x, base, change = (np.asarray(tensor.double()) for tensor in (left_vectors(base), base, change))
    scale = begin * around
    while scale < 3 * around:
        if np.abs(x.T @ leading_left(base + scale * change, k)).max(0).min() < 0.5:
            return scale
        scale *= step
    return math.inf


@pytest.mark.parametrize("size", ["dense", "krylov"])
def test_measured_is_the_first_scale_with_an_intruder(size: str) -> None:
    small = tiny_llama(hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    base = large_llama() if size == "krylov" else wide_spectrum(small)
    before = copy.deepcopy(base.state_dict())
    model = hot_llama(model=copy.deepcopy(base), gain=1.0, r=1)
    # A square, a tall and a wide one of those that are large.
    some = AuditSettings() if size == "dense" else AuditSettings(("*q_proj*", "*up_proj*", "*down_proj*"))
    result = critical_scales(model, compute=Compute(cache=False), audit=some)
    assert len(result.matrices) == (7 if size == "dense" else 3)
    after, step = merged_weights(model), 1.002 if size == "dense" else STEP
    for matrix in result.matrices:
        change = after[matrix.name].double() - before[matrix.name].double()
        brute = first_intruder(before[matrix.name], change, matrix.measured, step=step)
        assert matrix.measured == pytest.approx(brute, rel=SLACK + 0.03), matrix.name
    assert result.within_factor_two == 1
    assert result.intruders_at_largest == 0
    assert result.largest == pytest.approx(min(m.measured for m in result.matrices), rel=2 * SLACK)


@pytest.mark.parametrize("target", [0, 3, 8])
def test_largest_scale_with_at_most_so_many_intruders(target: int) -> None:
    before, model = large_llama().state_dict(), hot_llama(model=large_llama(), gain=1.0, r=2)
    result = critical_scales(model, target=target, compute=Compute(cache=False))
    after = merged_weights(model)

    def count(scale: float) -> int:
        sides = [(before[matrix.name], after[matrix.name]) for matrix in result.matrices]
        return sum(len(places_of_intruders(one, one + scale * (other - one))) for one, other in sides)

    assert count(result.largest) == result.intruders_at_largest <= target
    # The first scale beyond with more; counts go up and down with the scale.
    assert any(count(result.largest * 1.01**step) > target for step in range(1, 13))


def with_spectrum(m: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors, values and right vectors of a matrix whose values fall evenly from 6 to 1."""
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u, torch.linspace(6, 1, min(m, n), dtype=torch.float64), v


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
@pytest.mark.parametrize("shape", [(320, 288), (64, 96)], ids=str)
def test_an_update_along_a_base_vector_that_does_not_lead(shape: tuple[int, int], share: float) -> None:
    """The projection holds some of the leading base vectors; the fortieth, which the update brings up, is not one."""
    u, values, v = with_spectrum(*shape)
    base = (u * values) @ v
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(side, generator=generator, dtype=torch.float64) for side in shape)
    left -= (left @ u[:, 40]) * u[:, 40]
    left = share * u[:, 40] + math.sqrt(1 - share**2) * left / left.norm()
    right = v[40] if share == 1 else right / right.norm()
    change = 3 * torch.outer(left, right)
    (found,) = critical_scales({"w": base}, {"w": base + change}, compute=Compute(cache=False)).matrices
    if share == 1:
        assert found.measured == math.inf
        assert all(not places_of_intruders(base, base + s * change, 10) for s in (0.3, 1, 3, 10))
    else:
        around = found.measured if math.isfinite(found.measured) else found.predicted
        brute = first_intruder(base, change, around, step=1.004, begin=0.7)
        assert found.measured == pytest.approx(brute, rel=0.02)


def test_an_update_of_many_equal_directions() -> None:
    u, values, v = with_spectrum(288, 320)
    base = (u * values) @ v
    change = torch.randn(288, 320, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 20
    (found,) = critical_scales({"w": base}, {"w": base + change}, compute=Compute(cache=False)).matrices
    # Audits alone go on from there in steps of WALK, and pass by narrower windows; one of 2 % lies at 0.38 here.
    brute = first_intruder(base, change, found.measured)
    while not places_of_intruders(base, base + brute * (1 + WALK) * change, 10):
        brute = first_intruder(base, change, found.measured, begin=brute * (1 + WALK) / found.measured)
    assert found.measured == pytest.approx(brute, rel=WALK + 0.03)


@pytest.mark.parametrize(
    ("on_projections", "epsilon", "least_roots"), [(False, 0.5, 15), (False, 0.8, 15), (True, 0.5, 0)]
)
def test_dense_decompositions_confirm_them(on_projections: bool, epsilon: float, least_roots: int) -> None:
    """Families made to be ugly; ``python -m tests.audits.scales.wrong_scales`` tries more of them."""
    found = search(range(1), on_projections, epsilon)
    assert not {"wrong", "missed", "begins earlier"} & set(found)
    assert found["tried"] == 20
    assert found["root"] >= least_roots


def test_matrices_that_find_no_room_have_the_same_critical_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hot_llama(model=wide_spectrum(tiny_llama(hidden_size=144, intermediate_size=150)), gain=1.0, r=2)
    compute = Compute(cache=False)
    together = critical_scales(model, compute=compute)
    monkeypatch.setattr(searching, "_KEPT_BYTES", 0)
    alone = critical_scales(model, compute=compute)
    measured = [one.measured for one in together.matrices]
    assert [one.measured for one in alone.matrices] == pytest.approx(measured, rel=2e-6)
    assert alone.intruders_at_largest == together.intruders_at_largest == 0


@pytest.mark.parametrize(
    "base",
    [torch.zeros(12, 20), torch.eye(20), torch.ones(12, 20), torch.randn(3, 5), torch.randn(1, 4)],
    ids=["zero", "identity", "rank one", "fewer than k", "one row"],
)
def test_degenerate_bases_have_an_answer_that_can_be_saved(base: Tensor) -> None:
    change = torch.randn(base.shape, generator=torch.Generator().manual_seed(3))
    result = critical_scales({"w": base}, {"w": base + change}, compute=Compute(cache=False))
    assert result.intruders_at_largest == 0
    assert result.largest > 0
    json.dumps(result.to_document(), allow_nan=False)


def test_an_update_of_the_base_itself_has_no_critical_scale() -> None:
    u, values, v = with_spectrum(40, 60)
    base = {"model.layers.0.mlp.up_proj.weight": (u * values) @ v}
    tuned = {name: 1.5 * tensor for name, tensor in base.items()}
    result = critical_scales(base, tuned, compute=Compute(cache=False))
    assert [matrix.measured for matrix in result.matrices] == [math.inf]
    assert result.largest == result.matrices[0].searched == result.search_end
    assert result.is_at_search_end
    assert scale_lines(result)[1] == (
        f"no intruder up to {result.search_end:.3g} times this update, where the search ended"
    )
    some = critical_scales(base, tuned, target=3, compute=Compute(cache=False))
    assert scale_lines(some)[1].startswith("at most 3 intruders up to ")
    assert json.loads(json.dumps(result.to_document()))["matrices"][0]["measured"] is None
    assert math.isnan(result.within_factor_two)


def test_agreement() -> None:
    def matrix(measured: float, predicted: float) -> MatrixScale:
        return MatrixScale("w", (4, 4), measured, predicted, 100.0)

    pairs = [(1.0, 1.9), (2.0, 0.9), (3.0, 7.0), (math.inf, 3.0), (4.0, 8.0)]
    result = CriticalScales("b", "t", 10, 0.5, 0, 1.0, 0, [matrix(*pair) for pair in pairs], 0.0)
    assert result.within_factor_two == 0.5
    assert result.rank_correlation == pytest.approx(0.8)


def test_a_target_may_be_above_every_count_or_of_numpy() -> None:
    base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}
    tuned = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}

    def chosen(target: Any) -> CriticalScales:
        return critical_scales(base, tuned, target=target, compute=Compute(cache=False))

    assert chosen(10**20).largest == chosen(10**6).largest
    of_numpy = chosen(np.int64(1))
    assert of_numpy.largest == chosen(1).largest
    assert json.loads(json.dumps(of_numpy.to_document()))["settings"]["target"] == 1


@pytest.mark.parametrize("target", [-1, True])
def test_a_target_that_is_no_number_of_intruders_is_refused(target: Any) -> None:
    with pytest.raises(SettingError, match=f"target is {target}"):
        critical_scales(tiny_llama(), hot_llama(), target=target)
