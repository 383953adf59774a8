"""Settings of an audit, checked before anything is read: what its answer depends on, and where it is computed."""

import os
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored.selection import Selection
from ..errors import CacheError, SettingError
from ..settings import Settings, setting, settings_of
from ..system.versions import device_named

if TYPE_CHECKING:
    import torch

    from .base_cache import BaseCache, CacheChoice
    from .result.audit_result import Audit


# Settings that say which vectors of which matrices are intruders, and with them those of an audit that leaves weights
# whole, as a change of them needs; in the order of the help.
FINDING_INTRUDERS = ("k", "epsilon", "include", "exclude")
OF_WHOLE_WEIGHTS = (*FINDING_INTRUDERS, "include_embeddings")

_of_intruders = partial(setting, panel="Intruders")
_of_computation = partial(setting, panel="Computation")


@dataclass(frozen=True)
class AuditSettings(Selection):
    """The settings on which the answer of an audit depends, besides the two models.

    Examples:
      >>> AuditSettings(k=4).epsilon
      0.5
    """

    k: int = _of_intruders(
        10,
        "Number of top singular vectors to examine per matrix, 1 or more.",
        least=1,
        expected="a whole number of leading vectors, 1 or more",
    )
    epsilon: float = _of_intruders(
        0.5,
        "Threshold on the max cosine, above 0 and at most 1: a vector below it is an intruder.",
        above=0,
        most=1,
        expected="a cosine above 0 and at most 1, such as 0.5",
        metavar="COSINE",
    )
    exact: bool = _of_computation(
        False, "Decompose every matrix in full. This is slow and makes all bounds tight.", new_in="0.2"
    )
    skip_non_finite: bool = _of_intruders(
        False, "Skip matrices that contain NaN or infinity instead of stopping.", new_in="0.2", advanced=True
    )

    base_dtype: str | None = _of_intruders(
        None,
        "Round the base to float16 or bfloat16 before its vectors are compared; the tuned model stays as it is. "
        "float16 counts as the paper's code does.",
        choices=("float16", "bfloat16"),
        new_in="0.2",
        metavar="DTYPE",
        advanced=True,
        unless_given="default: as stored",
    )

    @classmethod
    def of(cls, audit: "Audit") -> "AuditSettings":
        """The settings that an audit was made with."""
        said = {name: audit.settings[name] for name in settings_of(cls) if name in audit.settings}
        return cls(**said, k=audit.k, epsilon=audit.epsilon, exact=audit.exact)


@dataclass(frozen=True)
class Compute(Settings):
    """The device, the threads and the base cache of an audit. The answer does not depend on them.

    Attributes:
      cache: where the base's decompositions are kept: True for the user's cache folder, False for none, a folder, a
        URL, a DiskCache or a MemoryCache.
    """

    device: str = _of_computation(
        "auto",
        "Device of the decompositions: auto, cpu or cuda. auto uses CUDA if available and covered by the proofs.",
        metavar="DEVICE",
    )
    workers: int | None = _of_computation(
        None,
        "Number of threads for small matrices.",
        least=1,
        expected="a whole number of threads, 1 or more",
        unless_given="default: torch's",
    )
    cache: "CacheChoice" = True

    def torch_device(self) -> "torch.device":
        """The device of that name; "auto" takes CUDA where there is one and the proofs cover its products.

        Raises:
          SettingError: torch does not know the device, it is not there, or it has no double precision.
        """
        import torch

        from ..linalg.full_precision import is_covered

        if self.device == "auto":
            cuda = torch.device("cuda")
            device = cuda if torch.cuda.is_available() and is_covered(cuda) else torch.device("cpu")
        else:
            device = device_named(self.device)
            if device.type == "meta":
                raise SettingError("device 'meta' has no numbers; expected 'auto', 'cpu' or 'cuda'")
            try:
                torch.zeros(1, dtype=torch.float64, device=device)
            except (RuntimeError, TypeError):
                raise SettingError(
                    f"device '{self.device}' has no double precision, which decisions need; expected 'auto', 'cpu' "
                    "or 'cuda'; pass 'cpu'"
                ) from None
        if not is_covered(device):
            warnings.warn(
                f"single-precision products on device '{device}' are not known to be as exact as the proofs need, so "
                "every matrix is decomposed in full there",
                stacklevel=2,
            )
        return device

    def base_cache(self) -> "BaseCache | None":
        """Return the base cache to use; None for none."""
        from .base_cache import BaseCache, DiskCache

        if self.cache is False:
            return None
        if self.cache is True:
            try:
                return DiskCache()
            except CacheError as error:  # a home that cannot be written to is no reason to refuse an audit
                warnings.warn(f"{error}; nothing is kept", stacklevel=2)
                return None
        if isinstance(self.cache, str | os.PathLike) and os.fspath(self.cache):
            return DiskCache(self.cache)
        if isinstance(self.cache, BaseCache):
            return self.cache
        raise SettingError(
            f"cache is {self.cache!r}; expected True, False, the path of a folder, a URL, or an object such as "
            "DiskCache; pass False to keep nothing"
        )


def shown_settings(settings: AuditSettings) -> dict[str, Any]:
    """Return the settings as plain JSON types; ``base_dtype``, which came later, only where it is given."""
    shown = settings.as_dict()
    return shown if settings.base_dtype is not None else {k: v for k, v in shown.items() if k != "base_dtype"}


AS_USUAL = AuditSettings()
ANYWHERE = Compute()
