"""Where a config may say that a model is quantized, as transformers looks for it."""

from __future__ import annotations

from typing import Any

import pytest

from intruders.checkpoints.quantized.settings import drop_quantization, quantization_of, weight_schemes

GPTQ = {"quant_method": "gptq"}


def test_the_config_and_then_the_language_model_in_it() -> None:
    from transformers import LlavaConfig

    own = LlavaConfig().to_dict()
    assert quantization_of(own) is None
    own["text_config"]["quantization_config"] = GPTQ
    config = LlavaConfig.from_dict(own)
    assert config.get_text_config(decoder=True).quantization_config == GPTQ  # what transformers takes
    assert quantization_of(config.to_dict()) == GPTQ
    assert quantization_of(own | {"quantization_config": {"quant_method": "awq"}}) == {"quant_method": "awq"}
    drop_quantization(own)
    assert quantization_of(own) is None


@pytest.mark.parametrize(
    "config", [None, {}, {"text_config": 3}, {"quantization_config": None, "decoder": []}]
)
def test_configs_that_say_nothing(config: Any) -> None:
    assert quantization_of(config) is None


def test_schemes_of_damaged_groups_are_passed_over() -> None:
    groups = {"a": {"weights": {"num_bits": 4}}, "b": ["Linear"], "c": {"weights": None}}
    assert weight_schemes({"config_groups": groups}) == [{"num_bits": 4}]
    assert weight_schemes({"config_groups": 3}) == weight_schemes({}) == []
