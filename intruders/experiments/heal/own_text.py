"""Text that a base writes itself, to learn from where there is none, and random tokens to compare it with."""

from __future__ import annotations

from typing import Any

import torch

from ...models.answers import evaluating, without_own_settings
from ...models.encoding import pad_token_id
from ...models.tuned_model import OpenedModel
from .heal_settings import SELF

_AT_ONCE = 16  # documents; fixed, so that a document does not depend on how many are wanted


def own_documents(opened: OpenedModel, kind: str, count: int, tokens: int, seed: int) -> list[str]:
    """Return documents that are samples of a causal model, or random tokens of its vocabulary.

    Samples begin at the first token of a sequence and are drawn at temperature 1 from all tokens; text of the model is
    as good as its pre-training text to keep what it knows (arXiv 2505.13811, 2605.26097).
    """
    tokenizer, tokens = opened.tokenizer, min(tokens, opened.context)
    documents: list[str] = []
    for batch in range(0, count, _AT_ONCE):
        torch.manual_seed(seed + batch)
        if kind == SELF:
            rows = sampled_tokens(opened, _AT_ONCE, tokens)
        else:
            ordinary = [number for number in range(len(tokenizer)) if number not in tokenizer.all_special_ids]
            drawn = torch.randint(len(ordinary), (_AT_ONCE, tokens))
            rows = [[ordinary[position] for position in row] for row in drawn.tolist()]
        documents += [tokenizer.decode(row) for row in rows]
    return documents[:count]


@torch.no_grad()
def sampled_tokens(opened: OpenedModel, count: int, tokens: int) -> list[list[int]]:
    """Return the tokens of samples without the first, and up to the end of the sequence."""
    model: Any = opened.model
    tokenizer = opened.tokenizer
    end = tokenizer.eos_token_id
    first = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = torch.full((count, 1), first, device=next(model.parameters()).device)
    with evaluating(model), without_own_settings(model):
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens - 1,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=pad_token_id(tokenizer),
            eos_token_id=end,
        )
    rows = [row[1:] for row in written.tolist()]
    return [row[: row.index(end)] if end in row else row for row in rows]
