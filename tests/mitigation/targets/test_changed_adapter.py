"""Mitigated adapters in folders: tensors that they store in full, and what the folder holds beside the weights."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.writing.lora_adapter import plain_lora
from intruders.checkpoints.writing.merged import everywhere_as_tuned
from intruders.errors import CheckpointError
from intruders.mitigation.remedies.changes import Change
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.targets.changed_adapter import LoraContent
from intruders.mitigation.targets.target import Changes
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import (
    merged_weights,
    saved,
    tiny_bert,
    tiny_llama,
    tiny_llava,
    tiny_mixtral,
    with_lora,
)
from tests.mitigation.hot import (
    assert_share,
    hot_llama,
    merged_from,
    mitigated,
    renamed_in,
)


def test_the_tokenizer_of_an_adapter_comes_with_it_and_nothing_of_its_training(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path / "base")
    saved(hot_llama(), tmp_path / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "log.jsonl"):
        (tmp_path / "tuned" / name).write_text(name)
    (tmp_path / "tuned" / "run.json").write_text("{}")
    mitigated(tmp_path, scale=0.3)
    found = {file.name: file for file in (tmp_path / "out").iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert found[name].read_text() == name
    assert {"run.json", "log.jsonl"}.isdisjoint(found)


def test_experts_stored_in_full_on_a_base_that_has_them_one_by_one(tmp_path: Path) -> None:
    base = tiny_mixtral()
    saved(base, tmp_path / "base")
    saved(with_lora(tiny_mixtral(), modules_to_save=["experts"]), tmp_path / "tuned")
    assert mitigated(tmp_path, remedy=Interpolate(alpha=0.5)).form == "adapter"
    tuned, found = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("tuned", "out"))
    experts = [f"model.layers.0.mlp.experts.{part}" for part in ("gate_up_proj", "down_proj")]
    assert_share(found, {f"base_model.model.{one}": base.state_dict()[one] for one in experts}, tuned, 0.5)


def test_a_changed_matrix_that_the_adapter_has_no_tensor_for_is_refused(tmp_path: Path) -> None:
    saved(hot_llama(target_modules=["q_proj"]), tmp_path / "tuned")
    base = open_checkpoint(tiny_llama())
    adapter = plain_lora(tmp_path / "tuned", "tuned", base)
    assert adapter is not None
    content = LoraContent.of(base, adapter, None)
    changed = {"model.layers.0.mlp.up_proj.weight": Change(share=0.5)}
    with pytest.raises(CheckpointError, match=r"changes 'model\.layers\.0\.mlp\.up_proj\.weight', for which"):
        content.rewritten(Changes(changed, everywhere_as_tuned))


@pytest.mark.parametrize(
    "settings", [{"modules_to_save": ["LayerNorm"]}, {"bias": "all"}], ids=["norms", "biases"]
)
def test_norms_and_biases_in_full_under_another_prefix(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The adapter of a classifier has ``bert.`` before every name, and the base has not."""
    model = tiny_bert(classes=3)
    saved(model.bert, tmp_path / "base")  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = with_lora(copy.deepcopy(model), target_modules=["query"], **settings)
    saved(tuned, tmp_path / "tuned")
    after = merged_weights(tuned)
    mitigated(tmp_path, remedy=Interpolate(alpha=0.5))
    found = merged_from(tmp_path / "out", model)
    assert any("LayerNorm" in name and not torch.equal(before[name], after[name]) for name in before)
    # A head is no tensor of the base, so that it stays as tuned.
    before |= {name: tensor for name, tensor in after.items() if name.startswith("classifier")}
    assert_share(found, before, after, 0.5, rtol=1e-4, atol=1e-5)


EMBEDDINGS = ["q_proj", "embed_tokens", "lm_head"]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_an_embedding_changed_before_its_factors_keeps_its_share(tmp_path: Path, share: float) -> None:
    """Not audited, the embedding is ``W0 + s (W - W0)`` with PEFT's merge as W, whatever is beneath the factors."""
    base = tiny_llama()
    saved(base, tmp_path / "base")
    changed = tiny_llama()
    changed.model.embed_tokens.weight.data[10:14] += 1.0  # type: ignore[union-attr, index, operator]
    saved(hot_llama(model=changed, target_modules=EMBEDDINGS), tmp_path / "tuned")
    after = merged_from(tmp_path / "tuned", tiny_llama())
    mitigated(tmp_path, remedy=Interpolate(share), check=False)
    found = merged_from(tmp_path / "out", tiny_llama())
    assert_share(found, base.state_dict(), after, share, atol=1e-5)


def tiny_t5() -> nn.Module:
    """One layer of encoder and decoder, whose embedding is ``shared`` and the output head too."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=40, **sizes)).eval()


def with_head_in_full(base: nn.Module, folder: Path, targets: str) -> tuple[Path, Path]:
    saved(base, folder / "base")
    model = with_lora(copy.deepcopy(base), target_modules=targets, modules_to_save=["lm_head"])
    saved(model, folder / "tuned")
    return folder / "base", folder / "tuned"


HEADS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "t5": (tiny_t5, r".*\.q"),
    "language and vision": (partial(tiny_llava, tied=True), r".*language_model.*q_proj"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_in_full_of_an_embedding_with_another_name_keeps_its_share(case: str, tmp_path: Path) -> None:
    """``W0 + 0.5 (W - W0)`` of every weight, with W of PEFT's own merge."""
    made, targets = HEADS[case]
    base, tuned = with_head_in_full(made(), tmp_path, targets)
    write_at_scale(base, tuned, 0.5, tmp_path / "out")
    after, found = merged_from(tuned, made()), merged_from(tmp_path / "out", made())
    assert_share(found, made().state_dict(), after, 0.5, atol=1e-5)
    if case == "t5":
        both = r"makes two tensors of 'shared\.weight' and 'lm_head\.weight'"
        with pytest.raises(CheckpointError, match=both):
            write_at_scale(base, tuned, 1.0, tmp_path / "merged", form="checkpoint")
        return
    write_at_scale(base, tuned, 1.0, tmp_path / "merged", form="checkpoint")
    written: Any = type(made()).from_pretrained(tmp_path / "merged")
    assert not torch.equal(written.lm_head.weight, written.get_input_embeddings().weight)
    assert_share(after, written.state_dict(), after, 0.0)


def test_a_head_in_full_that_no_tensor_of_the_base_is_known_to_be_is_refused(tmp_path: Path) -> None:
    """The base has it as ``language_model.lm_head``, the adapter as ``lm_head``."""
    base, tuned = with_head_in_full(tiny_llava(), tmp_path, r".*language_model.*q_proj")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight' in full, and no tensor of"):
        write_at_scale(base, tuned, 0.5, tmp_path / "out")
    write_at_scale(base, tuned, 1.0, tmp_path / "out")
    wanted, found = merged_from(tuned, tiny_llava()), merged_from(tmp_path / "out", tiny_llava())
    torch.testing.assert_close(found, wanted)


def test_a_head_in_full_on_a_base_whose_embedding_is_not_known_is_refused(tmp_path: Path) -> None:
    base, tuned = with_head_in_full(tiny_llama(tie_word_embeddings=True), tmp_path, r".*q_proj")
    renamed_in(base, lambda name: name.replace("embed_tokens", "own"))
    for form, scale in (("adapter", 0.5), ("checkpoint", 1.0)):
        with pytest.raises(CheckpointError, match=r"lm_head\.weight' in full, and no tensor of"):
            write_at_scale(base, tuned, scale, tmp_path / "out", form=form)
