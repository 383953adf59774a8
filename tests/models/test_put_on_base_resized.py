"""Adapters trained after tokens were added or taken away, against PEFT on a base that was resized by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from intruders.errors import CheckpointError
from intruders.models.loading import load_model
from intruders.models.tuned_model import open_language_model, put_on
from tests.checkpoints.models import moved
from tests.tiny import save_gpt2, save_llama

TRAINED: dict[str, dict[str, Any]] = {
    "linear layers": {},
    "embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings that are the head": {"modules_to_save": ["wte"]},
    "low rank on the head": {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
    # safetensors puts the factors, in 32 bits, before the head itself.
    "low rank on a head of 16 bits": {
        "target_modules": ["q_proj", "lm_head"],
        "modules_to_save": ["embed_tokens"],
        "dtype": torch.bfloat16,
    },
    "new tokens": {"trainable_token_indices": [101, 102]},
}


def trained(base: Path, folder: Path, rows: int, dtype: torch.dtype = torch.float32, **settings: Any) -> str:
    """An adapter of a base that was resized first, with a tokenizer of that many tokens, as trainers save it."""
    from peft import LoraConfig, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    own: Any = load_model(str(base), "causal")
    own.resize_token_embeddings(rows, mean_resizing=False)
    own = own.to(dtype)
    targets = ["q_proj"] if hasattr(own, "model") else ["c_attn"]
    given = {"target_modules": targets} | settings
    model = get_peft_model(own, LoraConfig(r=2, task_type="CAUSAL_LM", **given))
    moved(model, 0.2, 1, only=lambda name, parameter: parameter.requires_grad)
    model.save_pretrained(folder)
    return str(folder)


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor([ids])).logits
    return logits


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("what", TRAINED)
def test_an_adapter_with_new_tokens_is_what_peft_loads_on_a_resized_base(
    what: str, merged: bool, tmp_path: Path
) -> None:
    from peft import PeftModel

    base = (save_gpt2 if what == "embeddings that are the head" else save_llama)(tmp_path / "base")
    rows = len(AutoTokenizer.from_pretrained(base)) + 2
    tuned = trained(base, tmp_path / "tuned", rows, **TRAINED[what])
    resized: Any = load_model(str(base), "causal")
    resized.resize_token_embeddings(rows, mean_resizing=False)
    ids = [5, rows - 1, 7, rows - 2]
    wanted = logits_of(PeftModel.from_pretrained(resized, tuned), ids)
    opened = open_language_model(tuned, str(base), merged=merged)
    torch.testing.assert_close(logits_of(opened.model, ids), wanted)
    assert opened.tokenizer.encode("<|im_end|>", add_special_tokens=False) == [rows - 1]
    assert opened.notes[0] == (
        f"adapter {tuned!r} was trained with {rows} tokens and base {str(base)!r} has {rows - 2}, so the "
        "embeddings are resized as they were for the training"
    )
    if not merged:
        beside = put_on(open_language_model(str(base)), tuned, str(base))
        torch.testing.assert_close(logits_of(beside.model, ids), wanted)


def test_an_adapter_with_fewer_tokens(tmp_path: Path) -> None:
    """A base can have rows beyond its tokens, which trainers cut."""
    from peft import PeftModel

    base = save_llama(tmp_path / "base")
    tuned = trained(base, tmp_path / "tuned", 64)
    resized: Any = load_model(str(base), "causal")
    resized.resize_token_embeddings(64)
    wanted = logits_of(PeftModel.from_pretrained(resized, tuned), [5, 6, 7])
    torch.testing.assert_close(logits_of(open_language_model(tuned, str(base)).model, [5, 6, 7]), wanted)


def test_a_head_whose_new_rows_were_not_saved_is_refused(tmp_path: Path) -> None:
    """PEFT would compute with random ones."""
    from safetensors.torch import load_file, save_file

    tuned = trained(save_llama(tmp_path / "base"), tmp_path / "tuned", 103, modules_to_save=["embed_tokens"])
    file = Path(tuned) / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if "lm_head" not in name}, file)
    with pytest.raises(CheckpointError, match="has no weights of the output head for the others"):
        open_language_model(tuned, str(tmp_path / "base"))
