"""The GGUF reader against transformers' own loading of the same file."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.locate import locate
from intruders.checkpoints.open import open_checkpoint


@pytest.mark.models
def test_smollm2_is_what_transformers_loads() -> None:
    from transformers import AutoModelForCausalLM

    path = locate("smollm2-135m")
    checkpoint = open_checkpoint("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    truth = model.state_dict()
    assert set(truth) - set(checkpoint.names()) == {"lm_head.weight"}  # tied
    assert all(torch.equal(checkpoint.read(name), truth[name]) for name in checkpoint.names())
