"""Tensor names: their order, and what their last parts say about the weight."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

_INPUT_EMBEDDINGS = (
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
    "model.decoder.embed_tokens.weight",
    "transformer.word_embeddings.weight",
)
_DIGITS = re.compile(r"(\d+)")

# Last module names under which the libraries keep token, position and type embeddings, and output heads.
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens\w*|embed_positions|embed_in|embed_out|embeddings?|tok_embeddings|token_embd"
    r"|\w*word_embeddings?|\w*position_embeddings?|token_type_embeddings|wte|wpe|shared"
    r"|lm_head|score|classifier|qa_outputs|predictions\.decoder|output_projection)(?:\.weight)?$"
    r"|^output\.weight$"
)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which layer 2 comes before layer 10."""
    return [
        (0, int(part), "") if part.isdecimal() and len(part) < 19 else (1, 0, part)
        for part in _DIGITS.split(name)
    ]


def is_embedding_or_head(name: str) -> bool:
    """Whether a tensor of this name looks up or scores tokens or classes."""
    return _EMBEDDING.search(name) is not None


def tied_by_config(names: Container[str], config: Mapping[str, Any] | None) -> dict[str, str]:
    """The output head, to the embedding that transformers loads in its place when the config ties them."""
    if config is None or config.get("tie_word_embeddings") is not True or "lm_head.weight" not in names:
        return {}
    embeddings = [name for name in _INPUT_EMBEDDINGS if name in names]
    return {"lm_head.weight": embeddings[0]} if len(embeddings) == 1 else {}


def one_line(error: BaseException) -> str:
    """What a library said, as a part of one line: its first, without what a terminal would obey."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:300])


def some_of(names: list[str], most: int = 3) -> str:
    """``'a', 'b', 'c' (and 4 more)``: enough names for an error of one line."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} (and {len(names) - most} more)" if len(names) > most else shown
