"""Chat templates: conversations as tokens, and the one place that knows what ends an answer."""

from itertools import takewhile
from typing import Any

from ..data.task import Example
from ..errors import SettingError, first_line


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
