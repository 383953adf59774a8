"""The starts of PEFT's LoRA that write to the base's own weights: the one list of them."""

from __future__ import annotations

# PiSSA, OLoRA, CorDA and LoRA-GA leave W0 - s B A in the base, LoftQ a quantized W0. KaSA truncates W0; it is a setting
# of its own beside the start.
KASA = "kasa"
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


def changes_the_base(start: object) -> bool:
    """Return whether ``init_lora_weights`` of this value takes something out of the base's weights.

    PEFT's names may go on behind the method's, as in ``pissa_niter_16``.
    """
    return isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE)


def can_be_repeated(start: str) -> bool:
    """Return whether PEFT repeats this start when it loads the adapter, with the same result as before training.

    The randomized ``pissa_niter_16`` comes out otherwise; the others need data, gradients or a GPU.
    """
    return start.lower() in ("pissa", "olora", KASA)
