"""The methods of fine-tuning, each with what sets it apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What a method of fine-tuning is, and what the settings of a run need to know of it."""

    meaning: str
    # The update is alpha/r B A itself: it can be measured and scaled by its factors.
    is_plain_lora: bool = False
    freezes_a: bool = False
    # Its start takes something out of the base's weights, to be restored on saving.
    starts_from_changed_base: bool = False
    # It reads the base's own weights while it trains, which quantized ones are not.
    reads_base_weights: bool = False
    # A plugin of that name does what PEFT does not.
    is_plugin: bool = False


METHODS = {
    "full": Method("all linear weights; embeddings, norms and biases frozen unless train_all"),
    "lora": Method("W0 + alpha/r B A, A random, B zero (Hu et al. 2021)", is_plain_lora=True),
    "rslora": Method("LoRA scaled by alpha/sqrt(r) (Kalajdzievski 2023)", is_plain_lora=True),
    "dora": Method("LoRA on the direction, a trained magnitude per column (Liu et al. 2024)"),
    "pissa": Method(
        "LoRA that starts from the leading singular triplets of W0 (Meng et al. 2024)",
        starts_from_changed_base=True,
    ),
    "olora": Method(
        "LoRA that starts from a QR decomposition of W0 (Buyukakyuz 2024)", starts_from_changed_base=True
    ),
    "lora-fa": Method(
        "A frozen, gradient of B corrected for it (Zhang et al. 2023)", is_plain_lora=True, freezes_a=True
    ),
    "b-only": Method("A frozen, B trained as in LoRA", is_plain_lora=True, freezes_a=True),
    "lora+": Method("LoRA with a higher rate for B (Hayou et al. 2024)", is_plain_lora=True),
    "oplora": Method(
        "LoRA whose update leaves the leading singular triplets of W0 where they are (arXiv 2510.13003)",
        is_plain_lora=True,
        reads_base_weights=True,
        is_plugin=True,
    ),
    "milora": Method(
        "LoRA that starts from the smallest singular triplets of W0 (Wang et al. 2024)",
        starts_from_changed_base=True,
        is_plugin=True,
    ),
}

PLAIN_LORA = tuple(name for name, method in METHODS.items() if method.is_plain_lora)
FROZEN_A = tuple(name for name, method in METHODS.items() if method.freezes_a)
