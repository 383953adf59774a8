"""What the engine is compared with: the reference algorithm, and PEFT's ``reduce_intruder_dimension``.

The reference is what the code of Shuttleworth et al. does for a matrix: two full decompositions in single precision,
and the largest cosine of each of the k leading tuned vectors with all base vectors. PEFT's function decides by the same
two decompositions, and takes a third one of every matrix with intruders to write the mitigated adapter.
"""

import re

import torch
from torch import Tensor, nn

from .inputs import Lora

_REPORT = re.compile(r"(?P<name>.*): (?:No intruders|Intruders: (?P<count>\d+))")


def reference_count(base: Tensor, tuned: Tensor, k: int, epsilon: float) -> int:
    """Intruders among the k leading vectors of one tuned matrix ``(m, n)``."""
    base_left = torch.linalg.svd(base, full_matrices=False)[0]
    tuned_left = torch.linalg.svd(tuned, full_matrices=False)[0]
    largest = (base_left.mT @ tuned_left[:, :k]).abs().amax(0)
    return int((largest < epsilon).sum())


def peft_counts(model: nn.Module, k: int, epsilon: float) -> dict[str, int]:
    """Intruders by module name, as PEFT's function reports them. Adds the adapter ``intruder_reduced`` to the model."""
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    lines: list[str] = []
    with torch.no_grad():
        reduce_intruder_dimension(model, top_k=k, threshold_epsilon=epsilon, logging_sink=lines.append)
    reports = [found for line in lines if (found := _REPORT.fullmatch(line))]
    return {found["name"]: int(found["count"] or 0) for found in reports}


def peft_model_of(lora: Lora) -> nn.Module:
    """A model of one linear layer with the update as its LoRA adapter; it shares the base's memory."""
    from peft import LoraConfig, get_peft_model

    (m, n), rank = lora.base.shape, lora.left.shape[1]
    layer = nn.Linear(n, m, bias=False, device="meta")
    layer.weight = nn.Parameter(lora.base, requires_grad=False)
    model = nn.Module()
    model.add_module("layer", layer)
    adapted: nn.Module = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"]))
    state = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, value in (("lora_A", lora.right), ("lora_B", lora.left)):
            next(p for key, p in state.items() if name in key).copy_(value)
    return adapted
