"""Examples as token ids and labels, conversations by a chat template, and batches of them, padded on the right."""

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.task import Example
from ..errors import SettingError, first_line

# RoBERTa and its kin number positions from padding_idx + 1.
_NUMBERED_FROM_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip

IGNORED = -100  # the label that cross-entropy leaves out


def encode_parts(tokenizer: Any, examples: Sequence[Example]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the token ids of every prompt and of its completion, with what ends it.

    Both are encoded separately, so that a prompt has the same tokens in training as in generation, and end-of-sequence
    ends the completion. A conversation has the tokens that its chat template writes and no other; end-of-sequence is
    added only if the template has no end. Nothing predicts a first token, so a prompt without tokens is the token that
    begins a text, as in lm-evaluation-harness; SettingError if the tokenizer has none.
    """
    bos = tokenizer.bos_token_id
    begin = [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
    end = learned_end(tokenizer)
    of_template = end if end_in_template(tokenizer) is None else []
    for example in examples:
        if example.conversation is None:
            prompt, completion = ids_alone(tokenizer, example.text), ids_alone(tokenizer, example.target)
            yield begin + prompt or _beginning(tokenizer, example), completion + end
        else:
            prompt, completion = rendered(tokenizer, example)
            yield prompt, completion if set(of_template) <= set(completion) else completion + of_template


def rendered(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Return prompt and completion of a conversation as token ids, split where TRL splits them.

    The prompt ends with the opening of an answer. If the conversation goes on differently once the answer exists, in
    its template or because tokens merge, the prompt is what both have in common. The completion is the rest, with the
    template's own end of an answer. SettingError without a template, or if that refuses these messages.
    """
    where = example.origin or "a row"
    if not getattr(tokenizer, "chat_template", None):
        raise SettingError(
            f"{where} is a conversation, and the tokenizer has no chat template to make a text of it; "
            "use a model that was trained to chat, or pass prompt and completion as texts"
        )
    assert example.conversation is not None
    parts = (example.conversation.prompt, example.conversation.completion)
    prompt, answer = ([{"role": role, "content": content} for role, content in part] for part in parts)
    try:
        opening = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        texts = opening, tokenizer.apply_chat_template(prompt + answer, tokenize=False)
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise SettingError(
            f"{where} is a conversation that the tokenizer's chat template refuses: {first_line(error)}"
        ) from error
    opened, whole = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(opened, whole, strict=False))
    common = sum(1 for _ in pairs)
    return whole[:common], whole[common:]


def learned_end(tokenizer: Any) -> list[int]:
    """Return what is learned behind a text that is completed, and behind an answer whose template writes no end."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def end_in_template(tokenizer: Any) -> int | None:
    """Return the first special token that the chat template writes behind an answer; None if it writes none.

    It is another than end-of-sequence for Gemma, Phi-3, Llama-3 of some versions, and bases with ChatML.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    answer = "answer"  # a word that a template does not write by itself
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        whole: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template is a program of its own and raises what it likes
        return None
    behind: list[int] = tokenizer(whole.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    # A token that was added by hand is often not marked as special; runs of spaces and lines never end an answer.
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip())
    special = {*added, *tokenizer.all_special_ids}
    return next((token for token in behind if token in special), None)


def ends_of_answers(tokenizer: Any, generation_config: Any) -> list[int]:
    """Return every token at which generation ends: end-of-sequence, and those of template and model settings."""
    own = generation_config.eos_token_id
    several = own if isinstance(own, list | tuple) else [own]
    ends = [*learned_end(tokenizer), end_in_template(tokenizer), *several]
    return list(dict.fromkeys(int(end) for end in ends if end is not None))


def encode_completions(
    tokenizer: Any,
    examples: Sequence[Example],
    context: int,
    *,
    drop_too_long: bool = False,
    where: str,
    trains: bool = True,
) -> list[dict[str, list[int]]]:
    """Encode prompt and completion as one sequence; only the completion is learned.

    SettingError for a row that does not fit in ``context`` tokens, unless such rows are dropped.
    """
    encoded = []
    for row, (example, parts) in enumerate(zip(examples, encode_parts(tokenizer, examples), strict=True)):
        prompt, completion = parts
        if len(prompt) + len(completion) > context:
            if drop_too_long:
                continue
            named = f"{example.origin} (the {where})" if example.origin else f"row {row + 1} of the {where}"
            do = "or leave it out of the file: a model cannot answer what it cannot read"
            if trains:
                do = (
                    "raise --max-length up to what the model has, or leave such rows out with --drop-too-long"
                )
            raise SettingError(
                f"{named} has {len(prompt)} tokens of prompt and {len(completion)} of completion, more than the "
                f"context of {context}; shorten it, {do}"
            )
        encoded.append({"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion})
    if not encoded:
        raise _none_fits(where, context)
    return encoded


def fitting(tokenizer: Any, examples: Sequence[Example], context: int, where: str) -> list[Example]:
    """Return the examples whose prompt and completion fit in ``context`` tokens together; SettingError if none does."""
    parts = encode_parts(tokenizer, examples)
    kept = [
        example
        for example, (prompt, completion) in zip(examples, parts, strict=True)
        if len(prompt) + len(completion) <= context
    ]
    if examples and not kept:
        raise _none_fits(where, context)
    return kept


def _none_fits(where: str, context: int) -> SettingError:
    return SettingError(f"no row of the {where} fits in the context of {context} tokens; raise --max-length")


def ids_alone(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text without special tokens around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def ids_at_start(tokenizer: Any, text: str, width: int) -> list[int]:
    """Return at most ``width`` tokens of a text with its special tokens, from its start.

    Tokenizers of models that chat are often saved with ``truncation_side`` left, and would keep the end of the text.
    """
    side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        ids: list[int] = tokenizer(text, truncation=True, max_length=width)["input_ids"]
    finally:
        tokenizer.truncation_side = side
    return ids


def encode_classification(
    tokenizer: Any, examples: Sequence[Example], labels: Sequence[str], context: int
) -> list[dict[str, Any]]:
    """Encode text or pair as the tokenizer's sequence, cut at ``context`` tokens, and the label as its class."""
    number = {label: index for index, label in enumerate(labels)}
    encoded = []
    for example in examples:
        ids = tokenizer(example.text, example.pair, truncation=True, max_length=context)
        if not ids["input_ids"]:
            ids = {"input_ids": _beginning(tokenizer, example)}
        encoded.append({**ids, "labels": number[example.target]})
    return encoded


def _beginning(tokenizer: Any, example: Example) -> list[int]:
    # What stands for a text without tokens.
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    raise SettingError(
        f"{example.origin or 'a row'} has an empty text, and the tokenizer has no token that begins one; "
        "leave the row out"
    )


class PadRight:
    """Collate encoded rows to tensors as wide as the longest; padding is neither attended to nor learned."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        padding = {
            "input_ids": self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "labels": IGNORED,
        }
        whole = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        tensors = {name: [torch.tensor(row[name]) for row in whole] for name in padding if name in whole[0]}
        return {  # (batch, width), and (batch,) of classes
            name: torch.stack(given) if given[0].dim() == 0 else pad_sequence(given, True, padding[name])
            for name, given in tensors.items()
        }


def batches_by_length(
    rows: Sequence[dict[str, Any]], tokenizer: Any, batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield batches of rows of similar length, the shortest first: the positions of the rows, and their tensors."""
    collate = PadRight(pad_token_id(tokenizer))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([rows[row] for row in chosen])
        yield chosen, {name: value.to(device) for name, value in batch.items()}


def labels_of_next(labels: Tensor) -> Tensor:
    """Return (batch, width) labels where a causal model predicts them, one position earlier; classes as they are."""
    if labels.dim() == 1:  # (batch,)
        return labels
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


def pad_token_id(tokenizer: Any) -> int:
    """Return the tokenizer's padding token, or a stand-in: padding is masked, so any id works."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(candidate) for candidate in candidates if candidate is not None)


def context_length(model_config: Any, max_length: int | None) -> int:
    """Return the number of tokens of a row of training: the model's positions, or ``max_length`` if that is less.

    Without either, as for BLOOM, it is 1,024. Raises SettingError for more tokens than the model has positions.
    """
    positions = _positions(model_config)
    if max_length is None:
        return positions or 1024
    if positions and max_length > positions:
        raise SettingError(f"max_length is {max_length}, but the model has {positions} positions; lower it")
    return max_length


def longest_read(model_config: Any) -> int:
    """Return the number of tokens that a model can read at once, which has no limit where it has no positions."""
    return _positions(model_config) or sys.maxsize


def _positions(model_config: Any) -> int | None:
    # None if the model has none, as BLOOM and Mamba, or any number, as XLNet. MPT has none, and yet a longest row.
    text = model_config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    positions = next((value for name in names if (value := getattr(text, name, None))), None)
    if positions is None or positions < 1:
        return None
    first = 0
    if text.model_type == "mpnet":
        first = 2  # whatever its padding token is
    elif text.model_type in _NUMBERED_FROM_PADDING and text.pad_token_id is not None:
        first = int(text.pad_token_id) + 1
    return int(positions) - first
