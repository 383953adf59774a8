"""The loss on texts that a model once knew, by hand."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.tiny import mean_loss_by_hand

TOKENS = 40  # of each document


def loss_by_hand(model: Any, location: Path, texts: Path) -> float:
    """Nats per token of each document's first 40."""
    tokenizer = AutoTokenizer.from_pretrained(location)
    documents = [tokenizer(file.read_text())["input_ids"][:TOKENS] for file in sorted(texts.iterdir())]
    return mean_loss_by_hand(model.eval(), documents)
