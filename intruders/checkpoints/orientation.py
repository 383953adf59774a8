"""Which weights are stored (in, out), so that left singular vectors can be the output side everywhere.

``nn.Linear`` stores (out, in). transformers' ``Conv1D`` (GPT-2) and the stacked experts of some models store
(in, out). A file does not say which; shapes that belong together do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Shape = tuple[int, ...]

_CONV1D = re.compile(r"(?:^|\.)(?:c_attn|c_fc|c_proj|q_attn)\.weight$")
_STACKED = re.compile(r"(?:^|\.)experts\.(?P<part>gate_up_proj|down_proj)(?:\.weight)?$")


def stored_input_first(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Names of the weights whose stored order is (in, out) or (experts, in, out), as far as shapes tell."""
    return _conv1d(shapes) | _transposed_experts(shapes)


def _conv1d(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """GPT-2's projections, unless biases as long as their first side tell of nn.Linear (gpt_bigcode)."""
    names = [name for name, shape in shapes.items() if len(shape) == 2 and _CONV1D.search(name)]
    for name in names:
        first, second = shapes[name]
        bias = shapes.get(name.removesuffix("weight") + "bias")
        if first != second and bias is not None and bias in ((first,), (second,)):
            # One that is not square decides for all: the square ones beside it are of the same class.
            return frozenset(names if bias == (second,) else ())
    return frozenset()


def _transposed_experts(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Stacked experts with gate_up_proj (e, hidden, 2 inner) and down_proj (e, inner, hidden)."""
    found: set[str] = set()
    for name, shape in shapes.items():
        match = _STACKED.search(name)
        if match is None or match["part"] != "gate_up_proj" or len(shape) != 3:
            continue
        down = name.replace("gate_up_proj", "down_proj")
        down_shape = shapes.get(down, ())
        if len(down_shape) == 3 and shape[1:] == (down_shape[2], 2 * down_shape[1]):
            found |= {name, down}
    return frozenset(found)
