"""The tokenizer that an adapter was trained with, where it differs from its base's."""

from __future__ import annotations

import copy
from typing import Any

from ..checkpoints.stored.locate import locate
from ..checkpoints.writing.companions import own_tokenizer_files
from ..errors import CheckpointError
from .loading import load_tokenizer


def as_trained(tokenizer: Any, source: str, model: Any) -> tuple[Any, list[str]]:
    """Return the tokenizer that an adapter was trained with, and notes if it is not its base's.

    Args:
      tokenizer: the base's.
      source: the adapter.
      model: that the tokens are for. A token beyond its embeddings cannot be read, so then only the chat template is
        taken.
    """
    if not own_tokenizer_files(source):
        return tokenizer, []
    try:
        own = load_tokenizer(str(locate(source)))
    except CheckpointError:
        note = (
            f"transformers cannot load the tokenizer beside adapter {source!r}, so its base's is used; results are "
            "wrong if the adapter was trained with another chat template or other tokens"
        )
        return tokenizer, [note]
    template = getattr(own, "chat_template", None)
    has_template = template is not None and template != getattr(tokenizer, "chat_template", None)
    tokens = own.get_vocab()
    has_tokens = tokens != tokenizer.get_vocab()
    if has_tokens and max(tokens.values(), default=0) < len(model.get_input_embeddings().weight):
        if template is None:
            own.chat_template = getattr(tokenizer, "chat_template", None)
        return own, [f"the tokenizer is that of adapter {source!r}, whose tokens differ from its base's"]
    if not has_template:
        return tokenizer, []
    written_so = copy.copy(tokenizer)  # the base may go on to be measured with its own
    written_so.chat_template = template
    return written_so, [f"the chat template is that of adapter {source!r}, which differs from its base's"]
