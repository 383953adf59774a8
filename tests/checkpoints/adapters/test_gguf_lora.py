"""LoRA files of llama.cpp against PEFT's merge of the adapter that they were converted from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from intruders.checkpoints.pairing.inspect import inspect
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import Selection
from intruders.errors import CheckpointError
from tests.checkpoints.models import assert_tuned, differing, loaded, tiny_llama
from tests.checkpoints.other_programs import peft_lora, save_as_gguf

TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj", "embed_tokens"]


def test_an_adapter_is_what_peft_merges(tmp_path: Path) -> None:
    """With ranks of their own; q and k in the order of their heads; an embedding."""
    merged = peft_lora(tmp_path, tiny_llama(), target_modules=TARGETS, rank_pattern={"q_proj": 2})
    file = save_as_gguf(tmp_path)
    pairing = pair_sides(*open_sides(tmp_path / "base", file), Selection(include_embeddings=True))
    found = loaded(pairing)
    assert len(found) == 9
    assert_tuned(found, merged, atol=1e-6, rtol=1e-6)
    norm = next(skipped for skipped in pairing.skipped if skipped.name == "blk.0.attn_norm.weight")
    assert norm.reason == "a norm, which llama.cpp leaves out"
    [entry] = inspect(file)
    assert (entry.format, entry.base_source) == ("GGUF LORA", "org/base")
    assert {(row.rank, row.scale) for row in entry.rows} == {(4, 1.5), (2, 3.0)}
    # A folder with the file alone, as on the hub.
    (tmp_path / "alone").mkdir()
    shutil.copy(file, tmp_path / "alone")
    assert inspect(tmp_path / "alone")[0].rows == entry.rows


def test_an_alpha_of_zero_is_a_scale_of_one(tmp_path: Path) -> None:
    """llama_adapter_lora_weight::get_scale of llama-adapter.h: alpha ? adapter_scale * alpha / rank : adapter_scale."""
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    assert {row.scale for row in inspect(save_as_gguf(tmp_path, alpha=0.0))[0].rows} == {1.0}


def test_what_has_no_known_place_is_refused(tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    with pytest.raises(
        CheckpointError,
        match=r"'blk\.0\.attn_q\.weight'.* of the architecture 'falcon'; .*; pass the PEFT adapter",
    ):
        inspect(save_as_gguf(tmp_path, "falcon"))
    file = save_as_gguf(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"its base has no config with num_attention_heads; pass the base"
    ):
        differing(tiny_llama().state_dict(), file)
