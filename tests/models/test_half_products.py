"""Products with weights in half precision, against the same numbers multiplied in double precision."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from intruders.models import half_products
from intruders.models.half_products import (
    LinearOfHalf,
    is_plain_linear,
    linear,
    linear_of_half,
    speed_up_half,
)

HALF = (torch.bfloat16, torch.float16)


def tensors(dtype: torch.dtype, rows: int, m: int, n: int, seed: int) -> list[Tensor]:
    """Inputs, weight, bias and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, n), (m, n), (m,), (rows, m))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def assert_rounded(measured: Tensor, exact: Tensor, size: Tensor) -> None:
    """``measured`` is ``exact`` rounded to its type, up to the rounding of sums in single precision."""
    unit = torch.finfo(measured.dtype).eps
    smallest = torch.finfo(measured.dtype).smallest_normal
    assert bool(((measured.double() - exact).abs() <= unit * exact.abs() + 1e-5 * size + smallest).all())


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(HALF),
    rows=st.integers(16, 40),
    m=st.integers(1, 70),
    n=st.integers(1, 70),
    seed=st.integers(0, 2**31),
    has_bias=st.booleans(),
    part=st.sampled_from((1, 100, 1 << 22)),
)
def test_products_and_gradients_are_rounded_ones_of_double_precision(
    dtype: torch.dtype, rows: int, m: int, n: int, seed: int, has_bias: bool, part: int
) -> None:
    inputs, weight, bias, gradient = tensors(dtype, rows, m, n, seed)
    leaves = [inputs, weight, *([bias] if has_bias else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_products, "_PART", part)
        outputs = linear_of_half(inputs, weight, bias if has_bias else None)
        outputs.backward(gradient)
    x, w, b, g = (tensor.detach().double() for tensor in (inputs, weight, bias, gradient))
    added = b if has_bias else torch.zeros_like(b)
    assert_rounded(outputs, x @ w.T + added, x.abs() @ w.abs().T + added.abs())
    exact = (g @ w, g.T @ x, g.sum(0))
    sizes = (g.abs() @ w.abs(), g.abs().T @ x.abs(), g.abs().sum(0))
    for leaf, expected, size in zip(leaves, exact, sizes, strict=False):
        assert leaf.grad.dtype == dtype
        assert_rounded(leaf.grad, expected, size)


def test_outputs_keep_the_leading_dimensions() -> None:
    inputs, weight, bias, _ = tensors(torch.bfloat16, 24, 5, 7, seed=0)
    flat = linear_of_half(inputs, weight, bias)
    assert torch.equal(linear_of_half(inputs.view(2, 3, 4, 7), weight, bias), flat.view(2, 3, 4, 5))


def test_nothing_is_kept_in_single_precision_for_the_backward_pass() -> None:
    inputs, weight, bias, _ = tensors(torch.bfloat16, 24, 5, 7, seed=0)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear_of_half(inputs.requires_grad_(), weight, bias)
    assert [tensor.data_ptr() for tensor in kept] == [weight.data_ptr()]


def test_what_torch_computes_well_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("computed here")

    monkeypatch.setattr(half_products._InSingle, "apply", refuse)
    inputs, weight, bias, _ = tensors(torch.bfloat16, 16, 5, 7, seed=0)
    few = (inputs[:15], weight, bias)
    assert torch.equal(linear_of_half(*few), nn.functional.linear(*few))
    single = (inputs.float(), weight.float(), bias.float())
    assert torch.equal(linear_of_half(*single), nn.functional.linear(*single))
    with torch.autocast("cpu", torch.float16):
        assert linear_of_half(inputs, weight, bias).dtype == torch.float16
    with pytest.raises(AssertionError):
        linear_of_half(inputs, weight, bias)


@pytest.mark.parametrize(("capability", "expected"), [("AVX2", LinearOfHalf), ("AVX512", nn.Linear)])
def test_layers_are_changed_where_the_processor_lacks_half_precision(
    capability: str, expected: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4), nn.Conv1d(4, 4, 1)).to(torch.bfloat16)
    model.append(nn.Linear(4, 4))
    speed_up_half(model)
    assert [type(layer) for layer in model] == [expected, Own, nn.Conv1d, nn.Linear]
    assert [is_plain_linear(layer) for layer in model] == [True, False, False, True]


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_a_product_is_computed_as_layers_are(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    inputs, weight, _, _ = tensors(torch.bfloat16, 20, 5, 7, seed=0)
    layer = nn.Linear(7, 5, bias=False, dtype=torch.bfloat16)
    layer.weight.data.copy_(weight)
    speed_up_half(layer)
    assert torch.equal(linear(inputs, weight), layer(inputs))


def test_a_copy_of_a_layer_computes_with_its_own_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    speed_up_half(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    inputs = torch.randn(16, 4).to(torch.bfloat16)
    assert not other(inputs).any()
    assert layer(inputs).any()
