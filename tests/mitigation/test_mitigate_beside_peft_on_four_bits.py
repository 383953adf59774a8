"""What PEFT's own mitigation does on a base in four bits, as docs/results/comparison.md says, and what ours does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension

from intruders.audits.audit import audit
from tests.checkpoints.models import saved
from tests.checkpoints.quantized.test_quantized import NAME, by_the_library, quantized_by_bitsandbytes


def test_pefts_function_reads_the_packed_weights_and_ours_the_restored_ones(tmp_path: Path) -> None:
    model = quantized_by_bitsandbytes(tmp_path, "nf4")
    base = saved(model, tmp_path / "base")
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=1, lora_alpha=1, target_modules=["q_proj"]))
    layer = tuned.get_submodule(f"base_model.model.{NAME}")
    generator = torch.Generator().manual_seed(0)
    for part in (layer.lora_A, layer.lora_B):
        part["default"].weight.data = torch.randn(part["default"].weight.shape, generator=generator)
    packed, restored = layer.base_layer.weight.data, by_the_library(layer.base_layer)
    assert packed.dtype == torch.uint8
    assert packed.numel() == restored.numel() // 2  # two numbers in a byte
    assert packed.shape != restored.shape
    update = layer.get_delta_weight("default").detach()

    # It adds the update to those bytes, whose shape is another.
    with pytest.raises(RuntimeError, match="must match the size of tensor"):
        reduce_intruder_dimension(tuned, logging_sink=None)

    found = audit(base, saved(tuned, tmp_path / "adapter"), cache=False, include=[f"{NAME}.weight"])
    x = np.linalg.svd(restored.double().numpy(), full_matrices=False)[0]
    y = np.linalg.svd((restored + update).double().numpy(), full_matrices=False)[0][:, :10]
    count = int((np.abs(x.T @ y).max(axis=0) < 0.5).sum())
    assert found.intruders == count > 0
