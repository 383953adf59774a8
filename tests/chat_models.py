"""Tiny models that chat: a ByteLevel BPE tokenizer with the special tokens and the template of a published model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TURNS = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}" + _TURNS + "{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
_QWEN = (  # without its tools
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
    "{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
_LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + _TURNS + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# As Qwen and Llama-3 split a text: lines in a row stay together, also before a word.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class ChatShape:
    """What a published model has of a chat: its template, its special tokens, and which of these ends an answer."""

    template: str
    end: str
    eos: str
    bos: str | None = None
    others: tuple[str, ...] = ()


CHAT_SHAPES = {
    "gemma-it": ChatShape(_GEMMA, "<end_of_turn>", "<eos>", "<bos>", ("<start_of_turn>",)),
    "qwen2.5-base": ChatShape(_QWEN, "<|im_end|>", "<|endoftext|>", None, ("<|im_start|>",)),
    "qwen2.5-instruct": ChatShape(
        _QWEN, "<|im_end|>", "<|im_end|>", None, ("<|im_start|>", "<|endoftext|>")
    ),
    "llama-3": ChatShape(
        _LLAMA_3, "<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "phi-3": ChatShape(_PHI_3, "<|end|>", "<|endoftext|>", "<s>", ("<|user|>", "<|assistant|>", "<|system|>")),
    "mistral": ChatShape(_MISTRAL, "</s>", "</s>", "<s>"),
}  # fmt: skip


def chat_tokenizer(shape: ChatShape) -> Any:
    """Return a ByteLevel BPE tokenizer of few tokens; begin-of-sequence goes before a text, as those models have it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", *dict.fromkeys(filter(None, (shape.bos, shape.eos, shape.end, *shape.others)))]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, of_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    # Lines in a row become a token, which merges the end of a prompt with an answer's own lines.
    words = [f"What is {one} plus {two}\n\n\nIt is {one + two}." for one in range(30) for two in range(9)]
    given = {"special_tokens": special, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, **given))
    if shape.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{shape.bos} $A", special_tokens=[(shape.bos, tokenizer.token_to_id(shape.bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token=shape.bos, eos_token=shape.eos,
        extra_special_tokens=[token for token in special if token not in ("<pad>", shape.bos, shape.eos)],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = shape.template
    return made


def save_chat_model(folder: Path, shape: ChatShape) -> Path:
    """Write a Llama of two layers with that tokenizer; its configuration has the tokenizer's end-of-sequence alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = chat_tokenizer(shape)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trl_trainer(model: Path, talks: Sequence[Sequence[tuple[str, str]]], out: Path, *, steps: int) -> Any:
    """Return TRL's trainer of the last answers of conversations, given as roles and contents; it has not begun."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    messages = [[{"role": role, "content": content} for role, content in talk] for talk in talks]
    rows = Dataset.from_list([{"prompt": talk[:-1], "completion": talk[-1:]} for talk in messages])
    settings = SFTConfig(
        output_dir=str(out), max_length=None, max_steps=steps, learning_rate=5e-3, lr_scheduler_type="constant",
        per_device_train_batch_size=len(talks), per_device_eval_batch_size=len(talks), use_cpu=True, seed=0,
        bf16=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    return SFTTrainer(str(model), settings, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
