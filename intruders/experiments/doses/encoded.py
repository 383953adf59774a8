"""Documents and examples as token ids, as the model whose updates get doses reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.corpora import Corpus
from ...data.task import Example, Task
from ...errors import SettingError
from ...models.encoding import encode_classification, encode_completions, ids_at_start
from ...models.tuned_model import OpenedModel


def encoded_texts(opened: OpenedModel, corpus: Corpus, max_tokens: int) -> list[list[int]]:
    """Return the token ids of every document, at most as many as are read.

    Raises:
      SettingError: no document has two tokens.
    """
    width = min(max_tokens, opened.context)
    rows: list[list[int]] = [ids_at_start(opened.tokenizer, text, width) for text in corpus.documents]
    kept = [ids for ids in rows if len(ids) > 1]
    if not kept:
        raise SettingError(
            f"no document of corpus {corpus.name!r} has two tokens or more; expected text to learn from; pass "
            "another --loss-on"
        )
    return kept


def encoded_examples(
    opened: OpenedModel, task: Task, examples: Sequence[Example], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Encode examples with their targets for the model; those too long for it are skipped."""
    if task.kind == "classification":
        return encode_classification(opened.tokenizer, examples, labels, opened.context)
    where = f"train split of task {task.name!r}"
    return encode_completions(opened.tokenizer, examples, opened.context, drop_too_long=True, where=where)
