"""Adapters that PEFT would put on a base as another model than the file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from intruders.errors import CheckpointError, PairingError
from intruders.models.loading import load_model
from intruders.models.tuned_model import open_language_model
from tests.tiny import save_gpt2


def adapter(folder: Path, targets: list[str]) -> str:
    from peft import LoraConfig, get_peft_model

    save_gpt2(folder / "base")
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(str(folder / "base"), "causal"), config).save_pretrained(folder / "tuned")
    return str(folder / "tuned")


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused_and_not_drawn_at_random(lost: str, tmp_path: Path) -> None:
    tuned = adapter(tmp_path, ["c_attn"])
    file = Path(tuned) / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if lost in name)]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="has only lora_"):
        open_language_model(tuned, str(tmp_path / "base"))


def test_an_adapter_on_an_embedding_that_is_the_head_is_run_as_peft_runs_it_and_not_merged(
    tmp_path: Path,
) -> None:
    from peft import PeftModel

    tuned = adapter(tmp_path, ["wte"])
    base = str(tmp_path / "base")
    ids = torch.tensor([[5, 6, 7, 8]])
    own: Any = PeftModel.from_pretrained(load_model(base, "causal"), tuned).eval()
    opened: Any = open_language_model(tuned, base).model
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(ids).logits, own(ids).logits)
    with pytest.raises(
        PairingError, match=r"changes 'transformer\.wte', whose weight is that of 'lm_head' too"
    ):
        open_language_model(tuned, base, merged=True)
