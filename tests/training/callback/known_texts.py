"""The loss on texts that a model once knew, by hand."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

TOKENS = 40  # of each document


@torch.no_grad()
def loss_by_hand(model: Any, location: Path, texts: Path) -> float:
    """Every token but the first of each document's first 40, after all before it: the model's own logits."""
    tokenizer = AutoTokenizer.from_pretrained(location)
    model.eval()
    losses = []
    for file in sorted(texts.iterdir()):
        ids = torch.tensor(tokenizer(file.read_text())["input_ids"][:TOKENS])
        losses.append(
            cross_entropy(model(input_ids=ids[None]).logits[0, :-1].double(), ids[1:], reduction="none")
        )
    return float(torch.cat(losses).mean())
