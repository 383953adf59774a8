"""How a model is loaded: the type of its weights, and the device that holds them."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import SettingError
from ..settings import Settings, setting
from ..system.versions import device_named

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "bfloat16", "float16", "float32")
LOAD_IN = ("4bit", "8bit")
_of_computation = partial(setting, panel="Computation", new_in="0.2")


@dataclass(frozen=True)
class Loading(Settings):
    """How the models of a measurement are loaded. Losses are summed in double precision whatever the type.

    Examples:
      ``intruders.Loading(dtype="bfloat16")``
    """

    dtype: str = _of_computation(
        "auto",
        "Type of the weights in memory: auto (the checkpoint's own), bfloat16, float16 or float32.",
        choices=DTYPES,
        metavar="TYPE",
    )
    load_in: str | None = _of_computation(
        None,
        "Quantize linear layers while loading, by bitsandbytes: 4bit (nf4) or 8bit. Other weights have --dtype.",
        choices=LOAD_IN,
        metavar="BITS",
        unless_given="default: not quantized",
    )
    device: str = _of_computation(
        "auto", "Device of the models: auto, cpu or cuda. auto uses CUDA if available.", metavar="DEVICE"
    )
    device_map: str | None = _of_computation(
        None,
        "Map of accelerate that spreads a model over devices: auto, balanced or sequential.",
        choices=("auto", "balanced", "sequential"),
        metavar="MAP",
        unless_given="default: one device",
    )

    def torch_device(self) -> "torch.device":
        """Return the device that computes; SettingError if torch does not know it, or it is not there."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return device_named(self.device)


def require_whole_weights(loading: Loading) -> None:
    """Refuse to quantize or spread a model whose weights are changed in memory, by a SettingError."""
    for name in ("load_in", "device_map"):
        value = getattr(loading, name)
        if value is not None:
            raise SettingError(
                f"{name} is {value!r}, but this measurement changes weights in memory, which needs them unquantized on "
                "one device; leave it out, and pass dtype 'bfloat16' for less memory"
            )


def require_one_device(loading: Loading) -> None:
    """Refuse to spread a model whose layers are hooked in memory, by a SettingError; quantized layers can be."""
    if loading.device_map is not None:
        raise SettingError(
            f"device_map is {loading.device_map!r}, but updates are added beside layers on one device; leave it out, "
            "and pass load_in '4bit' or dtype 'bfloat16' for less memory"
        )


AS_STORED = Loading()
IN_SINGLE = Loading(dtype="float32")
