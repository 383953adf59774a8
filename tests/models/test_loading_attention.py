"""Which attention is computed where a gradient is taken."""

from pathlib import Path
from typing import Any

import pytest
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
