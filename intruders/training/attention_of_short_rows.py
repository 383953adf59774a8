"""Attention of short rows on a processor, by products of its own rather than torch's fused kernel."""

from __future__ import annotations

import warnings
from typing import Any

_LONGEST = 128  # tokens


def attend_by_products_if_short(model: Any, longest: int, precision: str) -> None:
    """Let a model compute attention by products and a softmax (transformers' ``eager``) where that is quicker.

    The fused kernel keeps no scores, and its gradient computes them anew in small tiles. In bf16 on a processor, the
    gradient takes twice the time of the products up to about 128 tokens, and less from 192 on
    (``python -m benchmarks.attention_of_short_rows``). In single precision they cost the same.

    Args:
      model: of transformers, before it is wrapped.
      longest: tokens of the longest row.
      precision: ``bf16``, ``fp16`` or ``fp32``, as it trains.
    """
    is_fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
    if is_fused and precision == "bf16" and longest <= _LONGEST and model.device.type == "cpu":
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # transformers 5.24 reads a property that it deprecated
            model.set_attn_implementation("eager")
