"""What ends an answer: the one place that knows it, for what is learned, what is measured and what is generated."""

from __future__ import annotations

from typing import Any

_ANSWER = "answer"  # a word that a template does not write by itself


def learned_end(tokenizer: Any) -> list[int]:
    """Return what is learned behind a text that is completed, and behind an answer whose template writes no end."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def end_in_template(tokenizer: Any) -> int | None:
    """Return the first special token that the chat template writes behind an answer.

    It is another than end-of-sequence for Gemma, Phi-3, Llama-3 of some versions, and bases with ChatML. None without
    a template, or if it writes no such token or refuses a question and its answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        whole: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template is a program of its own and raises what it likes
        return None
    behind: list[int] = tokenizer(whole.rpartition(_ANSWER)[2], add_special_tokens=False)["input_ids"]
    # A token that was added by hand is often not marked as special; runs of spaces and lines never end an answer.
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip())
    special = {*added, *tokenizer.all_special_ids}
    return next((token for token in behind if token in special), None)


def ends_of_answers(tokenizer: Any, generation_config: Any) -> list[int]:
    """Return every token at which generation ends: end-of-sequence, the template's end, those of the model's settings.

    Args:
      tokenizer: of the model.
      generation_config: what generation_config.json says, as transformers has it; its ``eos_token_id`` is one, several
        or None.
    """
    own = generation_config.eos_token_id
    several = own if isinstance(own, list | tuple) else [own]
    ends = [*learned_end(tokenizer), end_in_template(tokenizer), *several]
    return list(dict.fromkeys(int(end) for end in ends if end is not None))
