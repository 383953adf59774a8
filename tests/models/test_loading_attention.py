"""Which attention is computed where a gradient is taken, and that both are the same function."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from intruders.models.loading import attend_by_products_if_short


@pytest.fixture
def model(llama: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(llama)


@pytest.mark.parametrize(
    ("longest", "in_bf16", "expected"), [(128, True, "eager"), (129, True, "sdpa"), (20, False, "sdpa")]
)
def test_short_rows_in_bf16_take_products(model: Any, longest: int, in_bf16: bool, expected: str) -> None:
    attend_by_products_if_short(model, longest, in_bf16=in_bf16)
    assert model.config._attn_implementation == expected


def test_an_attention_that_was_chosen_is_left(model: Any) -> None:
    model.set_attn_implementation("flex_attention")
    attend_by_products_if_short(model, 20, in_bf16=True)
    assert model.config._attn_implementation == "flex_attention"


def test_loss_and_gradients_are_those_of_the_fused_kernel(model: Any) -> None:
    """In single precision, with padding on the right as a training has it: equal to its rounding."""
    ids = torch.arange(2 * 12).reshape(2, 12) + 1
    batch = {"input_ids": ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [7]])).long()}
    labels = ids.masked_fill(batch["attention_mask"] == 0, -100)
    seen = []
    for kind in ("sdpa", "eager"):
        model.set_attn_implementation(kind)
        model.zero_grad()
        loss = model(**batch, labels=labels).loss
        loss.backward()
        seen.append((loss.detach(), {name: own.grad.clone() for name, own in model.named_parameters()}))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-4, atol=1e-6)
