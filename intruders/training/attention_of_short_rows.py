"""Attention of short rows on a processor, by products of its own rather than torch's fused kernel."""

from __future__ import annotations

import warnings
from typing import Any

_LONGEST = 128  # tokens


def attend_by_products_if_short(model: Any, longest: int, precision: str) -> None:
    """Let a model compute attention by products and a softmax (transformers' ``eager``) where that is quicker.

    The fused kernel keeps no scores, and its gradient computes them again in small tiles. In bf16 on a processor that
    takes longer than the products where rows are short (``python -m benchmarks.attention_of_short_rows``).

    Args:
      model: of transformers, before it is wrapped.
      longest: tokens of the longest row.
      precision: ``bf16``, ``fp16`` or ``fp32``, as it trains.
    """
    is_fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
    if is_fused and precision == "bf16" and longest <= _LONGEST and model.device.type == "cpu":
        with warnings.catch_warnings():
            # transformers 5.24 reads a property that it deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            model.set_attn_implementation("eager")
