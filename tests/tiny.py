"""Tiny models with a tokenizer of single characters, made by code and saved by transformers."""

import json
import shutil
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from tests.json_lines import write_rows

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
_CHARACTERS = sorted(set(string.digits + string.ascii_letters + string.punctuation + " \n"))


def character_tokenizer(*, around: bool = False) -> Any:
    """One token per character; ``around`` puts <s> before and </s> behind every text, as BERT's does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(_SPECIAL + _CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
    )


_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _save(folder: Path, kind: Any, config: Any, *, around: bool = False, **settings: Any) -> Path:
    """A model of this kind at random, with its tokenizer."""
    tokenizer = character_tokenizer(around=around)
    torch.manual_seed(0)
    kind(config(vocab_size=len(tokenizer), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llama(folder: Path, *, positions: int = 512, width: int = 32) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = _SIZES | {"hidden_size": width, "intermediate_size": width * 3 // 2, "num_key_value_heads": 2}
    return _save(folder, LlamaForCausalLM, LlamaConfig, max_position_embeddings=positions, **sizes, **_TOKENS)


def save_gpt2(folder: Path) -> Path:
    """A causal model whose matrices are Conv1D, stored the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    return _save(folder, GPT2LMHeadModel, GPT2Config, **sizes, **_TOKENS)


def save_bert(folder: Path, *, with_head: bool = True) -> Path:
    """A masked language model of two layers, 32 wide, with its head or as an encoder with a pooler."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    kind = BertForMaskedLM if with_head else BertModel
    return _save(folder, kind, BertConfig, around=True, max_position_embeddings=128, pad_token_id=0, **_SIZES)


def save_roberta(folder: Path) -> Path:
    """A masked language model of two layers, 32 wide, whose classifier has no pooler."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    settings = {"max_position_embeddings": 130, **_SIZES, **_TOKENS}
    return _save(folder, RobertaForMaskedLM, RobertaConfig, around=True, **settings)


def short_task(folder: Path) -> str:
    """A task of sums, as ``--task`` takes it. A tiny model never ends an answer, and writes 16 tokens more than the
    longest target of a batch: two here, forty in word-problems.
    """
    file = folder / "sums.jsonl"
    if not file.is_file():
        rows = [
            {"sum": f"{number} + {number % 7} =", "is": f" {number + number % 7}"} for number in range(90)
        ]
        write_rows(file, rows)
    return f"{file}?prompt=sum&completion=is"


def short_texts(file: Path, count: int) -> Path:
    """Write texts that differ a little, one per line, to measure the loss of tiny models on."""
    rows = [
        {"text": f"{number} The base knows this text, number {number * 37 % 11}."} for number in range(count)
    ]
    return write_rows(file, rows)


def save_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a new folder with these weights alone, as a checkpoint without a configuration."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def with_update(base: Path, folder: Path, name: str, update: torch.Tensor) -> Path:
    """A copy of a model's folder with ``update`` added to one of its weights."""
    shutil.copytree(base, folder)
    weights = load_file(base / "model.safetensors")
    weights[name] = weights[name] + update
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_rounded(base: Path, folder: Path, steps: int = 7) -> Path:
    """A copy of a model's folder whose projections have ``2 steps + 1`` values a row, as in 4 bits of few groups."""
    shutil.copytree(base, folder)
    weights = load_file(base / "model.safetensors")
    for name, weight in weights.items():
        if "proj" in name:
            step = weight.abs().amax(1, keepdim=True) / steps
            weights[name] = (weight / step).round() * step
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def lora(modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the factors B (m, r) and A (r, n) of every module under the names that PEFT saves them by."""
    return {
        f"base_model.model.{name}.lora_{side}.weight": factor.clone(memory_format=torch.contiguous_format)
        for name, factors in modules.items()
        for side, factor in zip("BA", factors, strict=True)
    }


def save_lora(
    folder: Path, modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]], scale: float = 1.0
) -> Path:
    """Write a new folder with an adapter as PEFT saves it."""
    folder.mkdir(parents=True)
    save_file(lora(modules), folder / "adapter_model.safetensors")
    rank = next(iter(modules.values()))[1].shape[0]
    targets = sorted({name.rpartition(".")[2] for name in modules})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def mean_loss_by_hand(model: Any, documents: Sequence[list[int]]) -> float:
    """Nats per token of a causal model on documents of token ids, by a loop over its own logits."""
    total = 0.0
    for ids in documents:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
        total += float(cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
    return total / sum(len(ids) - 1 for ids in documents)


def write_files_of_a_model(folder: Path) -> None:
    """Write what lies in a model's folder, as text: what is read of it, and the notes of a person."""
    for name, content in {
        "config.json": "{}",
        "model.safetensors": "numbers",
        "tokenizer.json": "words",
        "notes.md": "of a person",
        "special_tokens_map.json": "[]",
    }.items():
        (folder / name).write_text(content)
