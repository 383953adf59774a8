"""How a model is loaded: the type of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Settings, setting

DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Loading(Settings):
    """How the models of a measurement are loaded. Losses are summed in double precision whatever the type.

    Example:
      ``intruders.Loading(dtype="bfloat16")``
    """

    dtype: str = setting(
        "auto",
        "Type of the weights in memory: auto (the checkpoint's own), bfloat16, float16 or float32.",
        choices=DTYPES,
        new_in="0.2",
        metavar="TYPE",
        panel="Computation",
    )


AS_STORED = Loading()
IN_SINGLE = Loading(dtype="float32")
