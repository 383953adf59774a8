"""Products with weights in half precision on a processor that has no arithmetic for them.

There torch multiplies such weights element by element, three to five times slower than in single precision. The layers
here widen a part of the weight at a time. A product of two numbers in half precision is exact in single, and the result
is rounded to the type of the weight, as torch does it; only the order of the sums differs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_HALF = (torch.bfloat16, torch.float16)
_PART = 1 << 22  # weights widened at a time: 16 MiB
# With fewer inputs, widening the weight takes longer than the product saves: one token that is generated, for instance.
_FEWEST_INPUTS = 16


class LinearOfHalf(nn.Linear):
    """A linear layer that computes with weights in half precision in single precision, where it has enough inputs."""

    def forward(self, input: Tensor) -> Tensor:
        return linear_of_half(input, self.weight, self.bias)


def is_plain_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer of torch, computed in either way, and no other kind of one."""
    return type(module) in (nn.Linear, LinearOfHalf)


def lacks_half() -> bool:
    """Return whether the processor has no arithmetic of half precision, as far as torch uses it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def speed_up_half(model: nn.Module) -> None:
    """Let the linear layers of ``model`` compute in single precision, where the processor lacks arithmetic of half."""
    if not lacks_half():
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype in _HALF:
            # The class is changed and not the method, so that a copy of the layer computes with its own weight.
            module.__class__ = LinearOfHalf


def linear(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return ``inputs @ weight.T`` as the linear layers of a loaded model compute it."""
    return linear_of_half(inputs, weight, None) if lacks_half() else functional.linear(inputs, weight)


def linear_of_half(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``inputs @ weight.T + bias`` in the type of ``weight``; ``inputs (..., n)``, ``weight (m, n)``."""
    fits = (
        inputs.dtype == weight.dtype
        and weight.dtype in _HALF
        and weight.device.type == "cpu"
        and inputs.numel() >= _FEWEST_INPUTS * weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
    )
    if not fits:
        return functional.linear(inputs, weight, bias)
    outputs: Tensor = _InSingle.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return outputs


class _InSingle(torch.autograd.Function):
    """The product and its gradients. Only tensors in half precision are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_weight = ctx.needs_input_grad[1]
        ctx.save_for_backward(weight, *([inputs] if needs_weight else []))
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        outputs = torch.empty(len(rows), len(weight), dtype=weight.dtype)
        for part in _parts(weight):
            product = rows @ weight[part].float().mT
            outputs[:, part] = product if bias is None else product + bias[part].float()
        return outputs.view(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        weight, *kept = ctx.saved_tensors
        (gradient,) = gradients
        rows = gradient.reshape(-1, gradient.shape[-1]).float()
        of_inputs = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            total = torch.zeros(len(rows), weight.shape[1])
            for part in _parts(weight):
                total.addmm_(rows[:, part], weight[part].float())
            of_inputs = total.to(weight.dtype).view(*gradient.shape[:-1], weight.shape[1])
        if kept:
            inputs = kept[0].reshape(-1, weight.shape[1]).float()
            of_weight = torch.empty_like(weight)
            for part in _parts(weight):
                of_weight[part] = rows[:, part].mT @ inputs
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0).to(weight.dtype)
        return of_inputs, of_weight, of_bias


def _parts(weight: Tensor) -> list[slice]:
    height = max(1, _PART // weight.shape[1])
    return [slice(first, first + height) for first in range(0, len(weight), height)]
