"""Whether a model and its base read documents as the same tokens, so that their losses can be paired."""

from __future__ import annotations

from typing import Any

from ..data.corpora import Corpora
from ..errors import SettingError
from .causal_loss import ids_of


def require_read_alike(
    tokenizer: Any, of_base: Any, corpora: Corpora, max_tokens: int | None, model: str, base: str
) -> None:
    """Raise SettingError if a document has a token, after its first, that the base's tokenizer does not have.

    Args:
      tokenizer: the model's.
      of_base: the base's.
      corpora: the documents.
      max_tokens: number of tokens of each that are read, from its start; None for all.
      model: what the error calls the model.
      base: what the error calls its base.
    """
    known = of_base.get_vocab()
    if not tokenizer.get_vocab().keys() - known.keys():
        return
    for name, parts in corpora.items():
        for part in parts:
            for number, text in enumerate(part.documents, start=1):
                ids = ids_of(tokenizer, text, max_tokens)[1:]
                other = next(
                    (token for token in tokenizer.convert_ids_to_tokens(ids) if token not in known), None
                )
                if other is not None:
                    raise SettingError(
                        f"document {number} of corpus {name!r} has the token {other!r}, which the tokenizer of "
                        f"{model!r} has and that of {base!r} does not, so their losses cannot be paired; pass text "
                        "without such tokens, or measure the model alone, without --base"
                    )
