"""What the base that an adapter names tells of the weights that it was trained on."""

from __future__ import annotations

import pytest

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.opening.named_base import notes_on_trained_base
from intruders.checkpoints.stored.checkpoint import Checkpoint


@pytest.mark.parametrize(("named", "is_quantized"), [("llama", False), ("llama-bnb-4bit", True)])
def test_a_base_in_the_home_of_an_unknown_user_is_known_by_its_name(named: str, is_quantized: bool) -> None:
    """The adapter is from another machine."""
    base, replaced = (Checkpoint(name, "checkpoint", "memory", {}) for name in ("base", "adapter"))
    notes = notes_on_trained_base(base, Adapter("a", "LORA", f"~nobody-of-this-name/{named}", replaced, []))
    assert ["a quantized base: it was trained on those weights" in note for note in notes] == [
        True
    ] * is_quantized
