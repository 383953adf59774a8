"""Tensor names: their order, and what their last parts say about the weight."""

from __future__ import annotations

import re

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


def some_of(names: list[str], most: int = 3) -> str:
    """``'a', 'b', 'c' (and 4 more)``: enough names for an error of one line."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} (and {len(names) - most} more)" if len(names) > most else shown
